/** `wrenn template ls|rm`: what sandboxes can start from. */
import { agentPaths, loadConfig } from '@wrenn/agent';
import { listTemplates } from '@wrenn/images';
import { withAgent } from '../agent-connection.ts';
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

export async function removeTemplates(
  names: readonly string[],
  options: { readonly json?: boolean },
): Promise<void> {
  await withAgent(async (client) => {
    for (const name of names) await client.sandboxes.deleteTemplate({ name });
    if (options.json) printJson(names.map((name) => ({ name })));
    else process.stdout.write(names.map((name) => `${printable(name)}\n`).join(''));
  });
}
