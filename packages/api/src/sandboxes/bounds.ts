/** What a request may ask for: of the configuration, and of the key. Each throws `invalid_argument` with the field. */
import { WrennError } from '@wrenn/protocol';
import type { ApiConfig } from '../config/schema.ts';
import type { Caller } from './caller.ts';
import { RESERVED_METADATA } from './creations.ts';

export interface Bounds {
  checkTimeout(timeoutMs: number): void;
  checkMetadata(metadata: Readonly<Record<string, string>>): void;
  checkCopies(count: number): void;
}

export function createBounds(config: ApiConfig['sandboxes']): Bounds {
  const checkTimeout = (timeoutMs: number): void => {
    if (timeoutMs <= config.maxTimeoutS * 1000) return;
    throw new WrennError('invalid_argument', `timeout: at most ${config.maxTimeoutS} seconds.`, {
      field: 'timeout',
    });
  };

  const checkMetadata = (metadata: Readonly<Record<string, string>>): void => {
    const entries = Object.entries(metadata);
    const bytes = entries.reduce(
      (sum, [key, value]) => sum + Buffer.byteLength(key) + Buffer.byteLength(value),
      0,
    );
    const wrong =
      entries.length > config.maxMetadataEntries
        ? `at most ${config.maxMetadataEntries} entries`
        : bytes > config.maxMetadataBytes
          ? `at most ${config.maxMetadataBytes} bytes`
          : entries.some(([key]) => key.startsWith(RESERVED_METADATA))
            ? `keys that begin with ${RESERVED_METADATA} are Wrenn's own`
            : undefined;
    if (wrong !== undefined) {
      throw new WrennError('invalid_argument', `metadata: ${wrong}.`, { field: 'metadata' });
    }
  };

  const checkCopies = (count: number): void => {
    if (count <= config.maxForks) return;
    throw new WrennError('invalid_argument', `count: at most ${config.maxForks}.`, { field: 'count' });
  };

  return { checkTimeout, checkMetadata, checkCopies };
}

export function checkSize({ limits: most }: Caller, vcpus: number, memoryMib: number): void {
  if (vcpus > most.maxVcpus) {
    throw new WrennError('invalid_argument', `cpuCount: this API key may have ${most.maxVcpus} at most.`, {
      field: 'cpuCount',
    });
  }
  if (memoryMib > most.maxMemoryMib) {
    throw new WrennError(
      'invalid_argument',
      `memoryMB: this API key may have ${most.maxMemoryMib} at most.`,
      {
        field: 'memoryMB',
      },
    );
  }
}
