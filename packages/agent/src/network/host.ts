/** What the network is built with: the host's tools, as interfaces, so that a test can put others in their place. */
import { access } from 'node:fs/promises';
import {
  createIp,
  createNetSysctl,
  createNft,
  createTc,
  type Ip,
  type NetSysctl,
  type Nft,
  type Tc,
} from '@wrenn/host';

export interface NetworkHost {
  readonly ip: Ip;
  readonly nft: Nft;
  readonly tc: Tc;
  readonly sysctl: NetSysctl;
  /** Whether there is such a file or directory. */
  readonly exists: (path: string) => Promise<boolean>;
  /** Milliseconds that never go backwards. */
  readonly now: () => number;
}

export function createNetworkHost(): NetworkHost {
  return {
    ip: createIp(),
    nft: createNft(),
    tc: createTc(),
    sysctl: createNetSysctl(),
    exists: (path) =>
      access(path).then(
        () => true,
        () => false,
      ),
    now: () => performance.now(),
  };
}
