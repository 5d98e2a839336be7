/** Names of hosts in one form for all spellings, and patterns for them: `example.com`, `*.example.com`. */
import { domainToASCII } from 'node:url';
import { WrennError } from '@wrenn/protocol';

export interface HostPattern {
  /** Lower case, without the root's dot; of a wildcard what stands behind `*.`. */
  readonly name: string;
  /** Names below it, however deep, and not itself. */
  readonly isWildcard: boolean;
}

const NAME_MAX_CHARS = 253;
/** Underscores are in no host's name by the book, and in many in use. */
const LABEL = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/;
/** As the last label it makes the whole an address: 127.1, 0x7f.1. */
const NUMBER = /^(\d+|0x[0-9a-f]*)$/;

/** The one form of a name with at least two labels; undefined for everything else, addresses too. */
export function parseHostName(text: string): string | undefined {
  if (text.length > NAME_MAX_CHARS + 1) return undefined;
  const name = text.toLowerCase().replace(/\.$/, '');
  if (name.length > NAME_MAX_CHARS) return undefined;
  const labels = name.split('.');
  if (labels.length < 2 || !labels.every((label) => LABEL.test(label))) return undefined;
  return NUMBER.test(labels.at(-1) ?? '') ? undefined : name;
}

/** Names with other letters than ASCII's are taken as browsers do. Throws `invalid_argument`. */
export function parseHostPattern(text: string): HostPattern {
  const isWildcard = text.startsWith('*.');
  const rest = isWildcard ? text.slice(2) : text;
  const isPlain = /^[\x21-\x7e]*$/.test(rest);
  const name = parseHostName(isPlain || rest.length > NAME_MAX_CHARS ? rest : domainToASCII(rest));
  if (name !== undefined) return { name, isWildcard };
  throw new WrennError('invalid_argument', `${JSON.stringify(text.slice(0, 80))} is no name of hosts.`, {
    hint: 'Names are like example.com, or *.example.com for all below it.',
  });
}

/** `name` as `parseHostName` gave it. */
export function matchesHost(patterns: readonly HostPattern[], name: string): boolean {
  return patterns.some((pattern) =>
    pattern.isWildcard ? name.endsWith(`.${pattern.name}`) : name === pattern.name,
  );
}
