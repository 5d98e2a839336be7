/** The gateway's processes as a program: bundled, as no test runs from what the product is built to. */
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';

const PROGRAM = `
  import { runEgressDoor, runEgressGateway, runEgressKeeper } from './roles.ts';
  if (process.argv[2] === 'egress-door') await runEgressDoor();
  else if (process.argv[2] === 'egress-keeper') runEgressKeeper();
  else runEgressGateway();`;

export interface GatewayProgram {
  command(role: string): string[];
  remove(): Promise<void>;
}

export async function bundleGateway(): Promise<GatewayProgram> {
  const directory = await mkdtemp('/tmp/wrenn-gateway-');
  const program = join(directory, 'gateway.mjs');
  await build({
    stdin: { contents: PROGRAM, resolveDir: join(import.meta.dirname, '../gateway') },
    outfile: program,
    bundle: true,
    platform: 'node',
    target: 'node20.19',
    format: 'esm',
    logLevel: 'error',
  });
  return {
    command: (role) => [process.execPath, program, role],
    remove: () => rm(directory, { recursive: true, force: true }),
  };
}
