/** Which encoding a body has and which one an answer gets: gzip or none. */

export type Encoding = 'identity' | 'gzip';

/** Undefined where it is one that is not understood. */
export function contentEncoding(header: string | null): Encoding | undefined {
  const encoding = (header ?? '').trim().toLowerCase();
  if (encoding === '' || encoding === 'identity') return 'identity';
  return encoding === 'gzip' || encoding === 'x-gzip' ? 'gzip' : undefined;
}

/**
 * Undefined where nothing that is offered is accepted.
 *
 * HTTP libraries name all they can decode in every request (`gzip, deflate`), which says nothing of what
 * their user wants; compressing for them would make every transfer several times slower than the wire.
 * So gzip is for who names nothing else, as the SDKs do when asked for it, or prefers it, or refuses
 * plain bytes.
 */
export function acceptedEncoding(header: string | null): Encoding | undefined {
  const qualities = parseAccept(header ?? '');
  const gzip = qualities.get('gzip') ?? qualities.get('*') ?? 0;
  const plainRefused = (qualities.get('identity') ?? qualities.get('*') ?? 1) === 0;
  if (plainRefused) return gzip > 0 ? 'gzip' : undefined;
  const onlyGzip = qualities.size === 1 && (qualities.get('gzip') ?? 0) > 0;
  const preferred = gzip > (qualities.get('identity') ?? Number.POSITIVE_INFINITY);
  return onlyGzip || preferred ? 'gzip' : 'identity';
}

function parseAccept(header: string): Map<string, number> {
  const qualities = new Map<string, number>();
  for (const item of header.split(',')) {
    const [name = '', ...parameters] = item.split(';').map((text) => text.trim().toLowerCase());
    if (name === '') continue;
    const quality = parameters.find((parameter) => parameter.startsWith('q='))?.slice(2);
    const value = quality === undefined ? 1 : Number(quality);
    qualities.set(name === 'x-gzip' ? 'gzip' : name, Number.isFinite(value) ? value : 1);
  }
  return qualities;
}
