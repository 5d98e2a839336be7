/** Bodies of the plain HTTP routes: read whole, but never more than allowed. */

/** The body as text; undefined once it turns out to be longer than allowed. */
export async function readText(request: Request, maxBytes: number): Promise<string | undefined> {
  // Of a stated length it cannot be longer. Bun reads such a body without its streams, whose code is slow to load
  // for what is the very first request of every sandbox.
  const statedBytes = Number(request.headers.get('content-length') ?? 0);
  if (statedBytes > 0 && statedBytes <= maxBytes) return request.text();
  const decoder = new TextDecoder();
  let text = '';
  let bytes = 0;
  for await (const chunk of request.body ?? []) {
    bytes += chunk.byteLength;
    if (bytes > maxBytes) return undefined;
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}

/** The fields of a JSON object, of an empty body none; undefined for anything else. */
export function parseObject(text: string): Readonly<Record<string, unknown>> | undefined {
  if (text.trim() === '') return {};
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}
