/** The agent's own processes for names that guests may reach; nobody else starts them. */
export { runEgressDoor, runEgressGateway, runEgressKeeper } from '@wrenn/agent/egress';
