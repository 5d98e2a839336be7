/** The JSON report of a run of tests, as far as it is needed to try files again and to count. */
import { z } from 'zod';

const fileSchema = z.looseObject({
  name: z.string(),
  status: z.string(),
  assertionResults: z.array(z.looseObject({ status: z.string() })),
});

const reportSchema = z.looseObject({ testResults: z.array(fileSchema) });

export type Report = z.output<typeof reportSchema>;

/** Undefined for what is no report. */
export function parseReport(text: string): Report | undefined {
  try {
    return reportSchema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

export function failedFiles({ testResults }: Report): string[] {
  return testResults.filter(({ status }) => status === 'failed').map(({ name }) => name);
}

/** What holds after the files of `again` were run once more. */
export function mergeReports(first: Report, again: Report): Report {
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
