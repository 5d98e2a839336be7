import { describe, expect, it } from 'vitest';
import { createRequest } from './options.ts';

describe('createRequest', () => {
  it('leaves to the agent what nobody asked for', () => {
    const request = createRequest({}, undefined);
    expect(request).toMatchObject({ template: '', snapshotId: '', envs: {}, metadata: {} });
    expect(request.vcpus).toBeUndefined();
    expect(request.memoryMib).toBeUndefined();
    expect(request.timeout).toBeUndefined();
  });

  it('takes sizes, rates and labels as people write them', () => {
    const request = createRequest(
      { template: 'base', cpus: '2', memory: '1G', disk: '4G', metadata: ['a=b'], diskRate: '10M' },
      90_000,
    );
    expect(request).toMatchObject({ template: 'base', vcpus: 2, memoryMib: 1024, diskMib: 4096 });
    expect(request.metadata).toEqual({ a: 'b' });
    expect(request.rateLimits?.diskBytesPerSecond).toBe(BigInt(10 * 1024 * 1024));
    expect(request.timeout?.seconds).toBe(90n);
  });

  it.each([
    ['--snapshot', { snapshot: '' }],
    ['--template', { snapshot: 'x', template: 'base' }],
    ['--cpus', { snapshot: 'x', cpus: '2' }],
    ['--memory', { snapshot: 'x', memory: '1G' }],
    ['--disk', { snapshot: 'x', disk: '1G' }],
  ])('refuses %s where it cannot be meant', (field, options) => {
    expect(() => createRequest(options, undefined)).toThrowError(expect.objectContaining({ field }));
  });
});
