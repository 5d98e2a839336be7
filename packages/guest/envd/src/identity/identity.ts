/**
 * Gives this machine the identity that a request names. Each field is applied when it differs from what was applied
 * before, so that repeating a request, or resuming a machine in place, touches neither its keys nor what its users have
 * changed since. All of it is synchronous: two requests never mix, and the answer comes after the last change.
 */
import type { Credentials } from '../sys/credentials.ts';
import type { Libc } from '../sys/libc.ts';
import { reseedKernel } from '../sys/random.ts';
import { createHostKeys } from './host-keys.ts';
import { readMachineId, writeHostname, writeMachineId, writeNameservers } from './machine-files.ts';
import type { IdentityRequest } from './parse-identity.ts';

export interface Identity {
  /**
   * Whether a life of this machine begins with the request, that of a clone or one more after a sleep: it brings
   * entropy that this machine has not had.
   */
  beginsLife(request: IdentityRequest): boolean;
  /** Throws where the machine does not let it. To be repeated then: what had been applied is not done twice. */
  apply(request: IdentityRequest): void;
}

export function createIdentity(dependencies: {
  readonly libc: Libc;
  readonly credentials: Credentials;
}): Identity {
  const { libc } = dependencies;
  const hostKeys = createHostKeys(dependencies.credentials);
  const applied = new Map<string, string>();
  /** The entropy of the last request that was applied to its end: one that failed may come again, as old as it is. */
  let life: string | undefined;

  function once(field: string, value: string | undefined, change: (value: string) => void): void {
    if (value === undefined || applied.get(field) === value) return;
    change(value);
    applied.set(field, value);
  }

  return {
    beginsLife: ({ entropy }) => entropy !== undefined && life !== digest(entropy),
    apply: ({ hostname, machineId, entropy, nameservers }) => {
      // First, because keys are made of it.
      if (entropy !== undefined) once('entropy', digest(entropy), () => reseedKernel(libc, entropy));
      once('hostname', hostname, (name) => {
        libc.setHostname(name);
        writeHostname(name);
      });
      once('machineId', machineId, (id) => {
        // An envd that was started again has forgotten, but the machine has not.
        if (readMachineId() === id) return;
        hostKeys.renew();
        writeMachineId(id);
      });
      if (nameservers !== undefined) {
        once('nameservers', nameservers.join(','), () => writeNameservers(nameservers));
      }
      if (entropy !== undefined) life = digest(entropy);
    },
  };
}

/** By which entropy is remembered: this memory is what the next snapshot holds. */
function digest(entropy: Uint8Array): string {
  return new Bun.CryptoHasher('sha256').update(entropy).digest('hex');
}
