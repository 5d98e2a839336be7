/** What the agent's program is besides the agent: apart from it, so that these processes load nothing else. */
export { runEgressDoor } from './door.ts';
export { runEgressKeeper } from './keeper.ts';
export { runEgressGateway } from './process.ts';
