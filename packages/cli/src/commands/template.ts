/** `wrenn template ls|rm`: what sandboxes can start from. */
import { agentPaths, loadConfig } from '@wrenn/agent';
import { listTemplates } from '@wrenn/images';
import { withAgent } from '../agent-connection.ts';
import { eachInTurn } from '../each-in-turn.ts';
import { formatBytes, formatTable, printable, printJson } from '../output.ts';

export async function printTemplates(options: { readonly json?: boolean }): Promise<void> {
  const templates = await listTemplates(agentPaths(loadConfig()).imagesDir);
  if (options.json) return printJson(templates);
  const rows = templates.map(({ name, buildId, sizeBytes, packages, builtAt }) => [
    name,
    buildId,
    formatBytes(sizeBytes),
    String(packages),
    builtAt,
  ]);
  process.stdout.write(formatTable(['NAME', 'BUILD', 'SIZE', 'PACKAGES', 'BUILT'], rows));
}

/** Resolves with the exit code. */
export async function removeTemplates(
  names: readonly string[],
  options: { readonly json?: boolean },
): Promise<number> {
  return await withAgent((client) =>
    eachInTurn(
      names,
      options.json === true,
      async (name) => {
        await client.sandboxes.deleteTemplate({ name });
        return { name };
      },
      ({ name }) => printable(name),
    ),
  );
}
