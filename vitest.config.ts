import { defineConfig } from 'vitest/config';

/** Tests are told apart by their names, see CONTRIBUTING.md. Those that need the real machine run one by one. */
const everywhere = ['packages/**/src/**', 'tests/**', 'bench/**', 'lab/**'];
const ignored = ['**/node_modules/**', '**/dist/**'];

/** Vitest's own second is less than a busy machine may stand still. */
const expectation = { poll: { timeout: 10_000 } };

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: everywhere.map((place) => `${place}/*.test.ts`),
          exclude: [...ignored, '**/*.host.test.ts', '**/*.vm.test.ts', '**/*.lab.test.ts'],
          expect: expectation,
          testTimeout: 20_000,
          hookTimeout: 60_000,
          // Most of them wait. Vitest would leave one processor to itself, which is half of a small machine.
          maxWorkers: '100%',
        },
      },
      {
        test: {
          name: 'host',
          include: everywhere.map((place) => `${place}/*.host.test.ts`),
          exclude: ignored,
          expect: expectation,
          testTimeout: 60_000,
          hookTimeout: 120_000,
          fileParallelism: false,
        },
      },
      {
        test: {
          name: 'vm',
          include: everywhere.map((place) => `${place}/*.vm.test.ts`),
          exclude: ignored,
          expect: expectation,
          testTimeout: 180_000,
          hookTimeout: 180_000,
          fileParallelism: false,
        },
      },
      {
        // Runs in the laboratory alone (lab/), where a guest of a guest takes its time.
        test: {
          name: 'lab',
          include: [...everywhere.map((place) => `${place}/*.lab.test.ts`), 'tests/e2e/*.vm.test.ts'],
          exclude: ignored,
          expect: expectation,
          testTimeout: 300_000,
          hookTimeout: 300_000,
          fileParallelism: false,
        },
      },
    ],
  },
});
