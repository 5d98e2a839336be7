/**
 * A vitest reporter for what goes wrong outside of any test, which its JSON report leaves out: hooks of suites, and
 * errors that nobody awaited. Writes an array of texts to the file of `--outputFile.outside`.
 */
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';

export default class OutsideReporter {
  onInit({ config }) {
    this.file = config.outputFile.outside;
  }

  onTestRunEnd(modules, unhandled) {
    const lost = unhandled.map((error) => {
      const { VITEST_TEST_PATH: path = '', VITEST_TEST_NAME: name } = error;
      return textOf([relative('.', path), name, 'an error that nobody awaited'], error);
    });
    // Of a file that did not load the JSON report tells.
    const loaded = modules.filter(({ children }) => !children.allTests().next().done);
    const hooks = loaded.flatMap((module) =>
      [module, ...module.children.allSuites()].flatMap((suite) =>
        suite.errors().map((error) => textOf([module.relativeModuleId, suite.fullName], error)),
      ),
    );
    writeFileSync(this.file, JSON.stringify([...lost, ...hooks]));
  }
}

/** Errors that crossed from a test's process have their stack taken apart. */
function textOf(where, { name, message, stack, stacks = [] }) {
  const places = stacks.map(({ file, line }) => `at ${file}:${line}`);
  const lines = places.length === 0 ? [stack ?? `${name}: ${message}`] : [`${name}: ${message}`, ...places];
  return [where.filter(Boolean).join(' > '), ...lines].join('\n');
}
