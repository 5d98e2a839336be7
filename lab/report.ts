/** The JSON report of a run of tests, as far as it is needed to try files again and to count. */
export interface FileReport {
  readonly name: string;
  readonly status: string;
  readonly assertionResults: readonly { readonly status: string }[];
}

export interface Report {
  readonly testResults: readonly FileReport[];
}

/** Undefined for what is no report. */
export function parseReport(text: string): Report | undefined {
  try {
    const report: unknown = JSON.parse(text);
    return isReport(report) ? report : undefined;
  } catch {
    return undefined;
  }
}

function isReport(value: unknown): value is Report {
  return has(value, 'testResults') && Array.isArray(value.testResults) && value.testResults.every(isFile);
}

function isFile(value: unknown): boolean {
  return (
    has(value, 'name', 'status', 'assertionResults') &&
    typeof value.name === 'string' &&
    Array.isArray(value.assertionResults) &&
    value.assertionResults.every((each) => has(each, 'status'))
  );
}

function has<const Name extends string>(value: unknown, ...names: Name[]): value is Record<Name, unknown> {
  return typeof value === 'object' && value !== null && names.every((name) => name in value);
}

export function failedFiles({ testResults }: Report): string[] {
  return testResults.filter(({ status }) => status === 'failed').map(({ name }) => name);
}

/** What holds after the files of `again` were run once more. */
export function mergeReports(first: Report, again: Report): Report & Readonly<Record<string, unknown>> {
  const newer = new Map(again.testResults.map((file) => [file.name, file]));
  const testResults = first.testResults.map((file) => newer.get(file.name) ?? file);
  const count = (...statuses: string[]): number =>
    testResults
      .flatMap(({ assertionResults }) => assertionResults)
      .filter(({ status }) => statuses.includes(status)).length;
  return {
    ...first,
    testResults,
    success: testResults.every(({ status }) => status === 'passed'),
    numPassedTests: count('passed'),
    numFailedTests: count('failed'),
    numPendingTests: count('pending', 'skipped', 'disabled'),
    numTodoTests: count('todo'),
  };
}
