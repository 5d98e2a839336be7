import { describe, expect, it } from 'vitest';
import { keyLimitsSchema } from '../config/schema.ts';
import type { ApiKey, KeyStore } from '../store/keys.ts';
import { createDoorkeeper } from './auth.ts';

const MIB = 1024 * 1024;
const tooMany = expect.objectContaining({ code: 'too_many_requests', retryAfterMs: 1000 });

function doorkeeper(uses: string[] = []) {
  const key = (id: string): ApiKey => ({
    id,
    teamId: 't',
    name: id,
    prefix: 'e2b_',
    admin: false,
    limits: {},
    createdAt: new Date(),
    expiresAt: undefined,
    revokedAt: undefined,
    lastUsedAt: undefined,
  });
  const keys: Pick<KeyStore, 'authenticate' | 'markUsed'> = {
    authenticate: async (secret) => key(secret),
    markUsed: async (id) => {
      uses.push(id);
      await new Promise((resolve) => setTimeout(resolve, 20));
    },
  };
  const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
  const defaults = keyLimitsSchema.parse({
    maxRequestsInFlight: 20,
    maxBodyMibInFlight: 2,
    maxAnswerMibInFlight: 2,
  });
  const requests = { wrongKeysPerMinute: 100, maxBodyMibInFlight: 3 };
  return createDoorkeeper({ keys: keys as KeyStore, defaults, requests, log });
}
const admit = (door: ReturnType<typeof doorkeeper>, key: string) => door.admit({ 'x-api-key': key }, '::1');

describe('a key', () => {
  it('has so much under way of answers that are not taken', async () => {
    const door = doorkeeper();
    const [one, two, three, other] = await Promise.all(['a', 'a', 'a', 'b'].map((key) => admit(door, key)));
    if (!one || !two || !three || !other) throw new Error('not admitted');
    // However large, where it is alone: it could never be had otherwise.
    one.answer(5 * MIB, { mayRefuse: true });
    expect(() => two.answer(1, { mayRefuse: true })).toThrow(tooMany);
    two.answer(MIB, { mayRefuse: false });
    other.answer(MIB, { mayRefuse: true });
    one.leave();
    one.leave();
    three.answer(MIB, { mayRefuse: true });
    const four = await admit(door, 'a');
    expect(() => four.answer(1, { mayRefuse: true })).toThrow(tooMany);
    for (const each of [two, three, four, other]) each.leave();
    const five = await admit(door, 'a');
    five.answer(2 * MIB, { mayRefuse: true });
    five.leave();
    expect(door.inFlight).toBe(0);
  });

  it('has so much under way of what it sends, and all keys together have', async () => {
    const door = doorkeeper();
    const [one, two, other, third] = await Promise.all(['a', 'a', 'b', 'c'].map((key) => admit(door, key)));
    if (!one || !two || !other || !third) throw new Error('not admitted');
    one.send(MIB);
    one.send(MIB);
    expect(() => two.send(1)).toThrow(tooMany);
    other.send(MIB);
    expect(() => third.send(1)).toThrow(tooMany);
    expect(() => other.send(MIB)).toThrow(tooMany);
    one.leave();
    one.leave();
    third.send(MIB);
    two.send(MIB);
    for (const each of [two, other, third]) each.leave();
    // However large, where it is alone.
    const alone = await admit(door, 'a');
    alone.send(4 * MIB);
    alone.send(4 * MIB);
    const late = await admit(door, 'b');
    expect(() => late.send(1)).toThrow(tooMany);
    alone.leave();
    late.send(3 * MIB);
    late.leave();
  });

  it('has so many requests open', async () => {
    const door = doorkeeper();
    const all = await Promise.all(Array.from({ length: 20 }, () => admit(door, 'a')));
    await expect(admit(door, 'a')).rejects.toThrow(tooMany);
    await admit(door, 'b');
    all[0]?.leave();
    await admit(door, 'a');
  });

  it('is marked as used once it has been answered, and once however many use it at the same time', async () => {
    const uses: string[] = [];
    const door = doorkeeper(uses);
    const all = await Promise.all(['a', 'a', 'a', 'b', 'a'].map((key) => admit(door, key)));
    expect(uses).toEqual([]);
    for (const each of all) each.leave();
    expect(uses.sort()).toEqual(['a', 'b']);
    await door.settle();
    (await admit(door, 'a')).leave();
    expect(uses.sort()).toEqual(['a', 'a', 'b']);
  });
});
