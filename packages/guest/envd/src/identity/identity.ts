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

  function once(field: string, value: string | undefined, change: (value: string) => void): void {
    if (value === undefined || applied.get(field) === value) return;
    change(value);
    applied.set(field, value);
  }

  return {
    apply: ({ hostname, machineId, entropy, nameservers }) => {
      // First, because keys are made of it.
      if (entropy !== undefined) {
        // Remembered by its digest: this memory is what the next snapshot holds.
        const digest = new Bun.CryptoHasher('sha256').update(entropy).digest('hex');
        once('entropy', digest, () => reseedKernel(libc, entropy));
      }
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
    },
  };
}
