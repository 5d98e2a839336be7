/** The header Content-Disposition: written for downloads, read from the parts of a form. */

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;

/** Names beyond printable ASCII are sent as RFC 5987 says. */
export function inlineDisposition(fileName: string): string {
  if (TOKEN.test(fileName)) return `inline; filename=${fileName}`;
  if (/^[\x20-\x7e]*$/.test(fileName)) return `inline; filename="${fileName.replace(/["\\]/g, '\\$&')}"`;
  const encoded = encodeURIComponent(fileName).replace(
    /['()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `inline; filename*=utf-8''${encoded}`;
}

export interface PartDisposition {
  readonly name: string | undefined;
  /** With whatever path it has: that is where the file goes. */
  readonly fileName: string | undefined;
}

/** Undefined where it is not that of a form's part. Only quotes and backslashes are taken as escaped. */
export function parsePartDisposition(header: string): PartDisposition | undefined {
  if (!/^\s*form-data\s*(;|$)/i.test(header)) return undefined;
  const parameters = new Map<string, string>();
  for (const [, key = '', quoted, plain = ''] of header.matchAll(
    /;\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))/g,
  )) {
    const name = key.toLowerCase();
    if (!parameters.has(name)) parameters.set(name, quoted?.replace(/\\(["\\])/g, '$1') ?? plain);
  }
  return {
    name: parameters.get('name'),
    fileName: decodeExtended(parameters.get('filename*')) ?? parameters.get('filename'),
  };
}

/** RFC 5987: `charset'language'percent-encoded`. */
function decodeExtended(value: string | undefined): string | undefined {
  const [, encoded] = /^utf-8'[^']*'(.*)$/i.exec(value ?? '') ?? [];
  if (encoded === undefined) return undefined;
  try {
    return decodeURIComponent(encoded);
  } catch {
    return undefined;
  }
}
