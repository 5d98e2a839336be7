/** Each version of the unmodified SDK against one server; see README.md. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { commandCases, terminalCases } from './commands.ts';
import { createContext } from './context.ts';
import { fileCases, fileUrlCases } from './files.ts';
import { gitCases } from './git.ts';
import { lifecycleCases } from './lifecycle.ts';
import { portCases } from './ports.ts';
import { refusalCases } from './refusals.ts';
import { nameOf, VERSIONS } from './sdks.ts';
import { type SdkServer, startServer } from './server.ts';
import { snapshotCases } from './snapshots.ts';
import { clientCases, templateCases } from './templates.ts';
import { commandLineCases, domainCases, interpreterCases } from './tools.ts';

let server: SdkServer;
beforeAll(async () => {
  server = await startServer(60);
});
afterAll(() => server?.close());

for (const version of VERSIONS) {
  const context = await createContext(version);
  describe(`e2b ${nameOf(version)}`, () => {
    beforeAll(() => context.open(server));
    afterAll(context.close);
    describe('commands', () => commandCases(context));
    describe('terminals', () => terminalCases(context));
    describe('files', () => fileCases(context));
    describe('URLs to files', () => fileUrlCases(context));
    if (!version.leaves.includes('git')) describe('repositories', () => gitCases(context));
    describe('sandboxes', () => lifecycleCases(context));
    describe('snapshots', () => snapshotCases(context));
    describe('templates', () => templateCases(context));
    describe('a client of its own', () => clientCases(context));
    describe('networks, and what is not there', () => refusalCases(context));
    if (context.isNewest) describe('ports', () => portCases(context));

    it('has no public method that no case calls', () => {
      if (context.isNewest) expect(context.recorder.size).toBeGreaterThan(90);
      expect(context.recorder.uncalled(version.leaves)).toEqual([]);
    });
  });
}

const serverOf = (): SdkServer => server;
describe('@e2b/cli', () => commandLineCases(serverOf));
describe('@e2b/code-interpreter', () => interpreterCases(serverOf));
describe('a domain', () => domainCases(serverOf));
