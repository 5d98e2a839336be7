/** Who asks: made of an API key by rest/, and all that the rooms below know of keys. */
import { WrennError } from '@wrenn/protocol';
import type { KeyLimits } from '../config/schema.ts';

export interface Caller {
  readonly keyId: string;
  readonly teamId: string;
  readonly admin: boolean;
  readonly limits: KeyLimits;
}

const ID_WITH_CLIENT = /^([a-z0-9]{20})(-[a-zA-Z0-9]{1,64})?$/;

/** Ids come as `<id>` or, from older SDKs, `<id>-<clientID>`. What is neither is nobody's sandbox. */
export function sandboxIdOf(text: string): string {
  const [, id] = ID_WITH_CLIENT.exec(text) ?? [];
  if (id === undefined) throw noSandbox(text);
  return id;
}

export function noSandbox(id: string): WrennError {
  return new WrennError('sandbox_not_found', `Sandbox ${JSON.stringify(id.slice(0, 40))} was not found.`, {
    field: 'sandboxID',
  });
}
