import { randomBytes } from 'node:crypto';
import { WrennError } from './errors.ts';

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789';
const LENGTH = 20;
const PATTERN = new RegExp(`^[a-z0-9]{${LENGTH}}$`);

/** A new sandbox id: 20 of `[a-z0-9]`, about 103 bits. Hosts are split on `-`, so it never has one. */
export function newSandboxId(): string {
  let id = '';
  while (id.length < LENGTH) {
    for (const byte of randomBytes(LENGTH)) {
      // 252 is the largest multiple of 36 in a byte; bytes above it would favour the first letters.
      if (byte < 252 && id.length < LENGTH) id += ALPHABET[byte % ALPHABET.length];
    }
  }
  return id;
}

/** Returns the id if it has the form of one, else throws `invalid_sandbox_id`. */
export function parseSandboxId(text: string): string {
  if (PATTERN.test(text)) return text;
  const shown = JSON.stringify(text.slice(0, 40));
  throw new WrennError('invalid_sandbox_id', `${shown} is not a sandbox id.`, {
    hint: 'Ids are 20 lower-case letters and digits; `wrenn sandbox ls` lists them.',
    field: 'id',
  });
}
