/** Stands in for what a domain brings: names that lead to this machine, and a certificate that programs trust. */
import dns from 'node:dns';
import tls from 'node:tls';
import { DOMAIN } from './server.ts';

/** For this process; returns how to undo it. */
export function trust(certificate: string): () => void {
  const { lookup } = dns;
  const { createSecureContext } = tls;
  const local = (name: string, ...rest: unknown[]): unknown => {
    const isOurs = name === DOMAIN || name.endsWith(`.${DOMAIN}`);
    return Reflect.apply(lookup, dns, [isOurs ? '127.0.0.1' : name, ...rest]);
  };
  dns.lookup = Object.assign(local, { __promisify__: lookup.__promisify__ }) as typeof lookup;
  tls.createSecureContext = (options) => {
    const made = createSecureContext(options);
    // Beside what is trusted already, as NODE_EXTRA_CA_CERTS does.
    const { context } = made as { context?: { addCACert(pem: string): void } };
    context?.addCACert(certificate);
    return made;
  };
  return () => {
    dns.lookup = lookup;
    tls.createSecureContext = createSecureContext;
  };
}
