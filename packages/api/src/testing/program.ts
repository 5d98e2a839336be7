/** Test programs that are to be killed: bundled once, and run as processes of their own. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';

export interface Program {
  readonly file: string;
  remove(): void;
}

/** `name` is that of a file in this directory. */
export async function bundleProgram(name: string): Promise<Program> {
  // Beside the package, where its dependencies are found.
  const file = join(import.meta.dirname, `../../node_modules/.${name}-${process.pid}.mjs`);
  await build({
    entryPoints: [join(import.meta.dirname, `${name}.ts`)],
    outfile: file,
    bundle: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
    plugins: [
      {
        name: 'own-packages',
        setup: (b) => {
          b.onResolve({ filter: /^@wrenn\/(host|protocol)(\/agent)?$/ }, ({ path }) => {
            if (path === '@wrenn/protocol/agent') {
              return {
                path: join(import.meta.dirname, '../../../protocol/src/gen/wrenn/agent/v1/agent_pb.ts'),
              };
            }
            return {
              path: join(import.meta.dirname, `../../../${path.slice('@wrenn/'.length)}/src/index.ts`),
            };
          });
        },
      },
    ],
  });
  return { file, remove: () => rmSync(file, { force: true }) };
}
