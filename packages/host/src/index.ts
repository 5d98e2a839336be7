/** The only place that runs system programs: typed, with deadlines, never through a shell. */
export * from './cgroup.ts';
export * from './cgroup-hierarchies.ts';
export * from './command.ts';
export * from './files.ts';
export * from './host-name.ts';
export * from './ip.ts';
export * from './ip-command.ts';
export * from './ipv4.ts';
export * from './machine.ts';
export * from './nft.ts';
export * as nftRule from './nft-rule.ts';
export * from './openssl.ts';
export * from './process.ts';
export * from './sparse.ts';
export * from './spawn.ts';
export * from './sysctl.ts';
export * from './systemd.ts';
export * from './tc.ts';
