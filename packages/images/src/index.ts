/** Everything that microVMs boot from: kernel, initrd, guest image, templates. */
export { installPackages } from './apt.ts';
export {
  type BootFiles,
  findBootFiles,
  findTemplate,
  type InstalledTemplate,
  listTemplates,
  type TemplateSummary,
} from './catalog.ts';
export { writeCpio } from './cpio.ts';
export { type EnsureOptions, ensureArtifacts } from './ensure.ts';
export { makeErofs } from './erofs.ts';
export { compileEnvd } from './guest-image.ts';
export { ensureLabImage, type LabImage } from './lab-image.ts';
export { wrennDirFromEnv } from './layout.ts';
export type { OnProgress, ProgressEvent } from './progress.ts';
export { TEMPLATE_NAMES, type TemplateName } from './recipes.ts';
export { removeTemplate } from './removal.ts';
export {
  ensureSystemPackages,
  missingSystemPackages,
  NEW_ENOUGH_HINT,
  oldSystemPrograms,
  REQUIRED_PROGRAMS,
  type RequiredProgram,
} from './system-packages.ts';
