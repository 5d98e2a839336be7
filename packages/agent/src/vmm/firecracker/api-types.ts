/**
 * The part of Firecracker's published API that Wrenn uses: request bodies as they go over the wire, and
 * parsers for the answers. Source: src/firecracker/swagger/firecracker.yaml of Firecracker 1.16, and the
 * server's own types where the two differ in strictness (unknown fields are refused by the server).
 */
import { z } from 'zod';

/** Tokens are bytes or operations, refilled over `refill_time` milliseconds. */
export interface RefilledBucket {
  readonly size: number;
  readonly refill_time: number;
  readonly one_time_burst?: number;
}

export interface RateLimiter {
  readonly bandwidth?: RefilledBucket;
  readonly ops?: RefilledBucket;
}

export interface BootSource {
  readonly kernel_image_path: string;
  readonly initrd_path?: string;
  readonly boot_args?: string;
}

export interface Drive {
  readonly drive_id: string;
  readonly path_on_host: string;
  readonly is_root_device: boolean;
  readonly is_read_only: boolean;
  readonly cache_type?: 'Unsafe' | 'Writeback';
  readonly io_engine?: 'Sync' | 'Async';
  readonly rate_limiter?: RateLimiter;
}

/** To a drive that is there: the rate limiter's buckets are replaced, and removed where their size is 0. */
export interface DrivePatch {
  readonly drive_id: string;
  readonly rate_limiter: RateLimiter;
}

export interface NetworkInterface {
  readonly iface_id: string;
  readonly host_dev_name: string;
  readonly guest_mac?: string;
}

export interface MachineConfiguration {
  readonly vcpu_count: number;
  readonly mem_size_mib: number;
  readonly smt?: boolean;
  readonly track_dirty_pages?: boolean;
  readonly huge_pages?: 'None' | '2M';
}

export interface EntropyDevice {
  readonly rate_limiter?: RateLimiter;
}

/** `serial_out_path` exists from 1.14 on, `rate_limiter` from 1.16 on. */
export interface SerialDevice {
  readonly serial_out_path?: string;
  readonly rate_limiter?: RefilledBucket;
}

export interface Logger {
  readonly log_path?: string;
  readonly level?: 'Error' | 'Warning' | 'Info' | 'Debug' | 'Trace' | 'Off';
  readonly show_level?: boolean;
  readonly show_log_origin?: boolean;
  readonly module?: string;
}

export interface Metrics {
  readonly metrics_path: string;
}

export interface SnapshotCreation {
  /** `Diff` is written into the file that is there, if that has the memory's size (from 1.6 on). */
  readonly snapshot_type: 'Full' | 'Diff';
  readonly snapshot_path: string;
  readonly mem_file_path: string;
}

export interface SnapshotLoad {
  readonly snapshot_path: string;
  /** Mapped privately, and never written to. */
  readonly mem_backend: { readonly backend_type: 'File'; readonly backend_path: string };
  readonly network_overrides: readonly { readonly iface_id: string; readonly host_dev_name: string }[];
  /** For what `Diff` is to write: without it, whatever is in the page cache. */
  readonly track_dirty_pages: boolean;
  readonly resume_vm: boolean;
}

export type ActionType = 'InstanceStart' | 'SendCtrlAltDel' | 'FlushMetrics';

export type VmState = 'Paused' | 'Resumed';

// Answers: fields that a later 1.x may add are let through unread; those named here must be as published.

export const instanceInfoSchema = z.object({
  app_name: z.string().max(256),
  id: z.string().max(256),
  state: z.enum(['Not started', 'Running', 'Paused']),
  vmm_version: z.string().max(256),
});
export type InstanceInfo = z.infer<typeof instanceInfoSchema>;

export const versionSchema = z.object({ firecracker_version: z.string().max(256) });

export const faultSchema = z.object({ fault_message: z.string() });
