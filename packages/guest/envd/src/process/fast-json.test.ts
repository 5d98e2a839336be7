import { create, fromJsonString, type JsonValue, toJsonString } from '@bufbuild/protobuf';
import {
  SendInputRequestSchema,
  StartResponseSchema,
  StreamInputRequestSchema,
} from '@wrenn/protocol/process';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { processJson } from './fast-json.ts';

const bytes = fc.uint8Array({ maxLength: 200 });

describe('fast JSON', () => {
  it('writes output as the general way does', () => {
    fc.assert(
      fc.property(fc.constantFrom('stdout', 'stderr', 'pty'), bytes, (kind, value) => {
        const message = create(StartResponseSchema, {
          event: { event: { case: 'data', value: { output: { case: kind, value } } } },
        });
        expect(JSON.parse(processJson.stringify(message) ?? '')).toEqual(
          JSON.parse(toJsonString(StartResponseSchema, message)),
        );
      }),
    );
  });

  it('leaves all other events to the general way', () => {
    const start = create(StartResponseSchema, { event: { event: { case: 'start', value: { pid: 1 } } } });
    expect(processJson.stringify(start)).toBeUndefined();
    expect(processJson.stringify(create(StartResponseSchema, {}))).toBeUndefined();
  });

  it('reads input as the general way does', () => {
    fc.assert(
      fc.property(fc.constantFrom('stdin', 'pty'), bytes, (kind, value) => {
        const input = { input: { case: kind, value } } as const;
        const process = { selector: { case: 'pid', value: 5 } } as const;
        const unary = create(SendInputRequestSchema, { process, input });
        const unaryJson = toJsonString(SendInputRequestSchema, unary);
        expect(plain(processJson.parse(SendInputRequestSchema, parse(unaryJson)))).toEqual(plain(unary));
        const streamed = create(StreamInputRequestSchema, { event: { case: 'data', value: { input } } });
        const streamedJson = toJsonString(StreamInputRequestSchema, streamed);
        expect(plain(processJson.parse(StreamInputRequestSchema, parse(streamedJson)))).toEqual(
          plain(streamed),
        );
      }),
    );
  });

  it('leaves what is no base64, and what is no input, to the general way', () => {
    for (const json of [
      '{}',
      '[]',
      'null',
      '{"input":7}',
      '{"input":{"stdin":"a"}}',
      '{"input":{"stdin":"$$$$"}}',
    ]) {
      expect(processJson.parse(SendInputRequestSchema, parse(json))).toBeUndefined();
    }
    expect(() => fromJsonString(SendInputRequestSchema, '{"input":{"stdin":"$$$$"}}')).toThrow();
  });
});

const parse = (text: string): JsonValue => JSON.parse(text);

/** Buffers and arrays of bytes compare by their content. */
function plain(message: unknown): unknown {
  return JSON.parse(
    JSON.stringify(message, (_key, value) => (value instanceof Uint8Array ? [...value] : value), 0).replace(
      /\{"type":"Buffer","data":(\[[^\]]*\])\}/g,
      '$1',
    ),
  );
}
