/** What the agent and its gateway say to each other, over the channel that Node opens between a process and its child. */
import { z } from 'zod';

const whole = z.int().min(0);
const door = z.string().min(1).max(64);
const id = whole;

export const settingsSchema = z.strictObject({
  /** Who the gateway is from then on. */
  uid: z.int().min(1),
  denied: z.array(z.string().max(18)),
  resolvers: z.array(z.string().max(64)).optional(),
  connectMs: whole,
  limits: z.strictObject({ maxConnections: whole, headMs: whole, maxHeadBytes: whole, idleMs: whole }),
});
export type GatewaySettings = z.output<typeof settingsSchema>;

export const policySchema = z.strictObject({
  names: z.array(z.string().max(256)).max(1024),
  transmitBytesPerSecond: whole.optional(),
});
/** As asked for; checked before. */
export type DoorPolicy = z.output<typeof policySchema>;

export const toGatewaySchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('start'), id, settings: settingsSchema }),
  z.strictObject({ type: z.literal('policy'), id, door, policy: policySchema }),
  /** Comes with a server that listens. */
  z.strictObject({ type: z.literal('listen'), id, door, port: z.literal([80, 443]) }),
  z.strictObject({ type: z.literal('close'), id, door }),
]);
export type ToGateway = z.output<typeof toGatewaySchema>;

export const fromGatewaySchema = z.strictObject({ done: id, problem: z.string().max(1000).optional() });

export const PORTS = [80, 443] as const;
export const fromDoorSchema = z.strictObject({ port: z.literal([...PORTS]) });
