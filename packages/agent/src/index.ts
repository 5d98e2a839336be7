export { leftCgroups } from './cgroups/cgroups.ts';
export { DEFAULT_CONFIG_FILE, loadConfig, parseConfig } from './config/load.ts';
export {
  type AgentConfig,
  type AgentConfigInput,
  type AgentPaths,
  agentPaths,
  agentSocketPath,
} from './config/schema.ts';
export { slotNameAt } from './network/config.ts';
export { checkForwarding } from './network/forwarding.ts';
export { type AgentClient, type AgentClientOptions, createAgentClient } from './server/client.ts';
export { type RunningAgent, type StartAgentOptions, startAgent } from './server/daemon.ts';
export { fromConnectError, toConnectError } from './server/errors.ts';
export { isLocked, lockHolder } from './server/lock.ts';
export { type RunAgentOptions, runAgent } from './server/run-agent.ts';
export { describeInstalled as describeFirecracker, firecrackerFromEnv } from './vmm/firecracker/index.ts';
export { type KvmVerdict, keptKvmVerdict, probeKvm, whyNotOpened } from './vmm/kvm-probe.ts';
