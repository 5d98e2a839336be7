/** The document as a page that needs nothing from elsewhere: no script, no style sheet, no font. */
import type { OpenApiDocument } from './openapi.ts';

const STYLE = `body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:13px/1.45 ui-monospace,monospace}pre{background:#8881;padding:.75rem;overflow:auto;border-radius:6px}
summary{cursor:pointer;padding:.35rem 0}summary b{display:inline-block;min-width:4.5rem}
details{border-top:1px solid #8884}h2{margin-top:2rem}.old{opacity:.6}`;

/** Sent with it, so that nothing in it could run even if it got there. */
export const DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

export function docsPage(document: OpenApiDocument): string {
  const groups = new Map<string, string[]>();
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const { summary, tags, deprecated, parameters, requestBody, responses } = operation;
      const group = String(Array.isArray(tags) ? tags[0] : 'other');
      const details = [
        section('Parameters', parameters),
        section('Body', requestBody),
        section(
          'Answers',
          Object.fromEntries(Object.entries(Object(responses)).filter(([status]) => status < '4')),
        ),
      ].join('');
      const old = deprecated === true ? ' class="old"' : '';
      groups.set(group, [
        ...(groups.get(group) ?? []),
        `<details${old}><summary><b>${method.toUpperCase()}</b> <code>${escapeHtml(path)}</code> ${escapeHtml(String(summary))}</summary>${details}</details>`,
      ]);
    }
  }
  const body = [...groups]
    .map(([name, entries]) => `<h2>${escapeHtml(name)}</h2>${entries.join('')}`)
    .join('');
  const { components } = document;
  return `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Wrenn API</title><style>${STYLE}</style><h1>Wrenn API</h1>
<p>Requests carry their key in <code>X-API-Key</code>. Errors are <code>{"code", "message"}</code>.
The same as a document for programs: <a href="/openapi.json">openapi.json</a>.</p>${body}
<h2>Schemas</h2>${section('', Object(components).schemas)}</html>`;
}

function section(title: string, value: unknown): string {
  if (value === undefined) return '';
  return `<p>${escapeHtml(title)}</p><pre>${escapeHtml(JSON.stringify(value, null, 2))}</pre>`;
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}
