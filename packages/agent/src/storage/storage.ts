/**
 * What a sandbox starts from and what it writes to: templates (immutable, shared, made by
 * packages/images) and layers (private, sparse).
 */

import { findTemplate, listTemplates, removeTemplate } from '@wrenn/images';
import { WrennError } from '@wrenn/protocol';
import { withDeadline } from '../signals/signals.ts';
import { createLayers } from './layers.ts';

export interface Template {
  readonly name: string;
  readonly buildId: string;
  /** The read-only base image. */
  readonly rootfsPath: string;
  /** The read-only image with init and envd. */
  readonly guestImagePath: string;
  readonly kernelPath: string;
  readonly initrdPath: string;
}

/** A template that there is, in its current build. */
export interface TemplateSummary {
  readonly name: string;
  readonly buildId: string;
  readonly sizeBytes: number;
  readonly builtAtMs: number;
}

export interface Storage {
  /** Throws `template_not_found` (with the names there are) or `not_set_up`. Checks sizes against the manifest. */
  resolveTemplate(nameOrBuildId: string): Promise<Template>;
  /** By name. */
  listTemplates(): Promise<TemplateSummary[]>;
  /** With all of its builds. Whether anybody uses it is the caller's business. Idempotent. */
  removeTemplate(name: string): Promise<void>;
  /**
   * Makes the private layer of a sandbox: a sparse ext4 file of `sizeMib`, owned by the VMM.
   * Refuses early with `disk_full` when the file system could not hold it with the reserve to spare.
   */
  createLayer(
    path: string,
    sizeMib: number,
    owner: { uid: number; gid: number },
    signal: AbortSignal,
  ): Promise<void>;
  /** The same as a copy of another one; root's where `owner` is undefined. */
  copyLayer(
    from: string,
    to: string,
    owner: { uid: number; gid: number } | undefined,
    signal: AbortSignal,
  ): Promise<void>;
}

export interface StorageOptions {
  readonly wrennDir: string;
  /** Where kernels and templates are; other agents may use them too where it is not the same. */
  readonly imagesDir: string;
  readonly layersDir: string;
  /** Free space that a new layer must leave. */
  readonly diskReserveMib: number;
}

/** A set-up that builds takes minutes: then it is refused. */
const LOCK_MS = 10_000;

export function createStorage(options: StorageOptions): Storage {
  const { wrennDir, imagesDir, layersDir, diskReserveMib } = options;
  const layers = createLayers(layersDir, diskReserveMib);
  return {
    resolveTemplate: (nameOrBuildId) => findTemplate(imagesDir, nameOrBuildId),
    listTemplates: async () => {
      const templates = await listTemplates(imagesDir);
      return templates.map(({ name, buildId, sizeBytes, builtAt }) => {
        return { name, buildId, sizeBytes, builtAtMs: Date.parse(builtAt) };
      });
    },
    removeTemplate: async (name) => {
      if (imagesDir !== wrennDir) {
        throw new WrennError(
          'not_permitted',
          `The templates in ${imagesDir} may be in use by other agents.`,
          {
            hint: 'Delete it with the agent whose `wrennDir` that is.',
          },
        );
      }
      await withDeadline('Waiting for a set-up', LOCK_MS, undefined, (signal) =>
        removeTemplate(imagesDir, name, signal),
      );
    },
    createLayer: layers.create,
    copyLayer: layers.copy,
  };
}
