/** `wrenn template ls`: what sandboxes can start from. */
import { agentPaths, loadConfig } from '@wrenn/agent';
import { listTemplates } from '@wrenn/images';
import { formatBytes, formatTable, printJson } from '../output.ts';

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
