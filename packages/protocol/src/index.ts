export * from './errors.ts';
export * from './guest-contract.ts';
export * from './sandbox-id.ts';
