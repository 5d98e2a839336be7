/** The command line: what there is, and how its failures are told. Commands are loaded when they are used. */
import { WrennError } from '@wrenn/protocol';
import { Command, CommanderError, Option } from 'commander';
import { EXIT, EXIT_CODES_HELP, exitCodeOf } from './exit-codes.ts';
import { hasReaderLeft, lostOutput, READER_LEFT, watchOutputs } from './lost-output.ts';
import { gather, withMachineOptions, withNetworkOptions } from './options.ts';
import { printError } from './output.ts';
import { usageError, withoutOwnErrors } from './usage.ts';

const VERSION = '0.1.0';

/** Set by commands whose exit code is that of a command in a sandbox. */
let passesExitCodeOn = false;
/** What the command that runs was told, and not what it passes on to one in a sandbox. */
let commandWantsJson: boolean | undefined;

const NO_STDIN =
  'give the command no standard input; for jobs in the background, which a terminal stops when they read';

const COPY_HELP = `
What is named is followed if it is a symbolic link. Links, sockets, FIFOs and devices below it are left out, on both sides,
with a line on stderr each, the first 20, and a count of the rest. On the host a new file has the mode of its original as
far as the umask lets it, and one that is there keeps its own.`;

function withProcessOptions(command: Command): Command {
  return command
    .option('--env <name=value>', 'an environment variable; may be repeated', gather)
    .option('--user <name>', 'who runs the command (default: user)')
    .option('--cwd <path>', "where it starts (default: the user's home)")
    .option('--timeout <duration>', 'kill the command after this long, as 30s or 5m');
}

function withJson(command: Command): Command {
  return command.option('--json', 'answer and errors as JSON');
}

/** For commands whose answer is a stream of bytes. */
function withJsonErrors(command: Command): Command {
  return command.option('--json', 'errors as JSON');
}

/** `wrenn up`'s processes are told so, and go with it. */
function withParent(): Option {
  return new Option('--with-parent').hideHelp();
}

function buildProgram(): Command {
  const program = withoutOwnErrors(new Command('wrenn'))
    .description('A Linux machine of its own for every program that nobody has read.')
    .version(VERSION)
    .addHelpText('after', EXIT_CODES_HELP)
    .enablePositionalOptions()
    .hook('preAction', (_program, command) => {
      commandWantsJson = command.opts().json === true;
    });

  withJsonErrors(withProcessOptions(withMachineOptions(program.command('run'))))
    .description('run a command in a throw-away machine')
    .option('-t, --tty', 'give the command a terminal')
    .option('-n, --no-stdin', NO_STDIN)
    .argument('<command...>', 'the command and its arguments, after --')
    .passThroughOptions()
    .action(async (command: string[], options) => {
      passesExitCodeOn = true;
      process.exitCode = await (await import('./commands/run.ts')).run(command, options);
    });

  const sandbox = program.command('sandbox').description('machines that stay until they are killed');
  const life = () => import('./commands/sandbox.ts');
  const snapshots = () => import('./commands/snapshot.ts');
  withJson(withMachineOptions(sandbox.command('create')))
    .description('make a machine and print its id')
    .option('--snapshot <id>', 'start from a snapshot, whose sizes it keeps, instead of a template')
    .option('--env <name=value>', "a variable of every command's environment; may be repeated", gather)
    .option('--timeout <duration>', 'destroy it after this long, as 5m or 2h (default: never)')
    .option('--on-timeout <action>', 'what happens then: destroy or hibernate (default: destroy)')
    .action(async (options) => {
      process.exitCode = await (await life()).createSandbox(options);
    });
  withJson(sandbox.command('ls'))
    .description('list machines, newest first')
    .action(async (options) => (await life()).listSandboxes(options));
  withJson(sandbox.command('get <id>'))
    .description('show one machine')
    .action(async (id, options) => (await life()).getSandbox(id, options));
  withJsonErrors(withProcessOptions(sandbox.command('exec')))
    .description('run a command in it')
    .option('-t, --tty', 'give the command a terminal')
    .option('-n, --no-stdin', NO_STDIN)
    .argument('<id>')
    .argument('<command...>', 'the command and its arguments, after --')
    .passThroughOptions()
    .action(async (id: string, command: string[], options) => {
      passesExitCodeOn = true;
      // Behind an argument of ours commander leaves the separator in.
      const words = command[0] === '--' ? command.slice(1) : command;
      process.exitCode = await (await import('./commands/exec.ts')).exec(id, words, options);
    });
  withJsonErrors(withProcessOptions(sandbox.command('shell <id>')))
    .description('open a terminal in it')
    .action(async (id: string, options) => {
      passesExitCodeOn = true;
      const shell = ['/bin/bash', '-i', '-l'];
      process.exitCode = await (await import('./commands/exec.ts')).exec(id, shell, {
        ...options,
        tty: true,
      });
    });
  withJsonErrors(sandbox.command('cp <from> <to>'))
    .description('copy files; a place in a machine is <id>:<path>, - is standard input or output')
    .option('--user <name>', 'whose files they are (default: user)')
    .addHelpText('after', COPY_HELP)
    .action(async (from, to, options) => (await import('./commands/copy.ts')).copy(from, to, options));
  withJson(sandbox.command('pause <id...>'))
    .description('freeze it with its memory kept')
    .action(async (ids, options) => {
      process.exitCode = await (await life()).pauseSandboxes(ids, options);
    });
  withJson(sandbox.command('resume <id...>'))
    .description('continue it; wakes it if it hibernates')
    .action(async (ids, options) => {
      process.exitCode = await (await life()).resumeSandboxes(ids, options);
    });
  withJson(sandbox.command('hibernate <id...>'))
    .description('write it to the disk and give everything else back until it is resumed')
    .action(async (ids, options) => {
      process.exitCode = await (await life()).hibernateSandboxes(ids, options);
    });
  withJson(withNetworkOptions(sandbox.command('network <id>')))
    .description('replace the rules of what it may reach; without options all is open again')
    .action(async (id, options) => (await life()).setNetworkOfSandbox(id, options));
  withJson(sandbox.command('snapshot <id>'))
    .description("copy it as it stands, and print the snapshot's id")
    .action(async (id, options) => {
      process.exitCode = await (await snapshots()).takeSnapshot(id, options);
    });
  withJson(sandbox.command('fork <id>'))
    .description('make copies that go on by themselves, and print their ids')
    .option('--count <n>', 'how many (default: 1)')
    .option('--timeout <duration>', 'destroy each after this long, as 5m or 2h (default: never)')
    .action(async (id, options) => {
      process.exitCode = await (await life()).forkSandbox(id, options);
    });
  withJson(sandbox.command('kill <id...>'))
    .description('take it away with everything in it')
    .action(async (ids, options) => {
      process.exitCode = await (await life()).killSandboxes(ids, options);
    });
  withJson(sandbox.command('timeout <id> <duration>'))
    .description('destroy it this long from now; "never" takes the end away')
    .action(async (id, duration, options) => (await life()).setTimeoutOfSandbox(id, duration, options));
  withJsonErrors(sandbox.command('logs <id>'))
    .description("print its console's last lines")
    .option('-f, --follow', 'and what comes, until it ends')
    .action(async (id, options) => (await life()).printLogs(id, options));

  const snapshot = program.command('snapshot').description('copies of machines, to create others from');
  withJson(snapshot.command('ls'))
    .description('list snapshots, newest first')
    .action(async (options) => (await snapshots()).listSnapshots(options));
  withJson(snapshot.command('rm <id...>'))
    .description('delete snapshots that no machine uses')
    .action(async (ids, options) => {
      process.exitCode = await (await snapshots()).removeSnapshots(ids, options);
    });

  const template = program.command('template').description('what machines start from');
  withJson(template.command('ls'))
    .description('list templates')
    .action(async (options) => (await import('./commands/template.ts')).printTemplates(options));
  withJson(template.command('rm <name...>'))
    .description('delete templates that no machine and no snapshot uses, with all their builds')
    .action(async (names, options) => {
      process.exitCode = await (await import('./commands/template.ts')).removeTemplates(names, options);
    });
  withJson(template.command('warm <name>'))
    .description('make what its machines start from without a boot, unless it is there')
    .option('--cpus <n>', 'virtual CPUs')
    .option('--memory <size>', 'memory, as 512M or 2G')
    .option('--disk <size>', 'private disk, as 4G')
    .action(async (name, options) => (await snapshots()).warmTemplate(name, options));

  withJson(program.command('setup'))
    .description('install and build what is missing: system packages, kernel, images')
    .option('--template <name>', 'a template to build; may be repeated (default: base)', gather)
    .action(async (options) => {
      process.exitCode = await (await import('./commands/setup.ts')).setUp(options);
    });
  withJson(program.command('doctor'))
    .description('say what this machine can do, and what mends it; changes nothing')
    .option('--probe', 'boot a guest with KVM to see whether it works')
    .action(async (options) => {
      process.exitCode = await (await import('./commands/doctor.ts')).runDoctor(options);
    });
  program
    .command('agent')
    .description('run the host agent in the foreground')
    .option('--idle-timeout <duration>', 'leave after this long without machines and requests')
    .option('--log-file <path>', 'write the log there instead of to stderr')
    .addOption(withParent())
    .action(async (options) => (await import('./commands/agent.ts')).runAgentCommand(options));
  program
    .command('egress-gateway', { hidden: true })
    .description("the agent's own: leads guests to hosts that they may reach by name")
    .action(async () => (await import('./commands/egress.ts')).runEgressGateway());
  program
    .command('egress-keeper', { hidden: true })
    .description("the agent's own: stands between it and the gateway")
    .action(async () => (await import('./commands/egress.ts')).runEgressKeeper());
  program
    .command('egress-door', { hidden: true })
    .description("the agent's own: opens a gateway's sockets in a network namespace")
    .action(async () => await (await import('./commands/egress.ts')).runEgressDoor());
  program
    .command('up')
    .description('run the host agent and the API in the foreground, and say what to export for the E2B SDKs')
    .option('--new-key <name>', 'make another API key, and show it')
    .option('--domain <name>', "of sandboxes' hosts, as PORT-ID.NAME; with a port if it is not TLS's own")
    .option('--tls', 'with a certificate made for it on the spot, unless one is configured')
    .option('--json', 'the log as JSON, a line for each event')
    .action(async (options) => (await import('./commands/up.ts')).runUp(options));
  program
    .command('api')
    .description('run the API alone, in front of an agent that runs')
    .option('--new-key <name>', 'make another API key, and show it')
    .option('--domain <name>', "of sandboxes' hosts, as PORT-ID.NAME; with a port if it is not TLS's own")
    .option('--only-key', 'tell the first key, or another one with --new-key, and end')
    .option('--quiet', 'make no key by itself, and print nothing to export')
    .addOption(withParent())
    .option('--tls', 'with a certificate made for it on the spot, unless one is configured')
    .action(async (options) => (await import('./commands/api.ts')).runApi(options));
  program
    .command('install')
    .description('make the host agent and the API services of systemd')
    .option('--dry-run', 'print the units, and change nothing')
    .option('--no-start', 'write the units, and start nothing')
    .action(async (options) => (await import('./commands/install.ts')).runInstall(options));
  program
    .command('uninstall')
    .description('take the services away; sandboxes, images and keys stay')
    .option('--dry-run', 'print what would be removed')
    .action(async (options) => (await import('./commands/install.ts')).runUninstall(options));
  program
    .command('demo')
    .description('boot a machine, run a command in it, destroy it, and show that nothing is left')
    .option('--template <name>', 'what to start from (default: base)')
    .action(async (options) => {
      process.exitCode = await (await import('./commands/demo.ts')).runDemo(options);
    });
  return program;
}

/** Of words that are no command of ours yet. What stands behind `--` belongs to the command in the sandbox. */
function wantsJson(argv: readonly string[]): boolean {
  if (commandWantsJson !== undefined) return commandWantsJson;
  const end = argv.indexOf('--');
  return argv.slice(0, end === -1 ? undefined : end).includes('--json');
}

async function main(): Promise<void> {
  const program = buildProgram();
  try {
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      const wrong = usageError(program, error, process.argv.slice(2));
      if (wrong !== undefined) printError(wrong, wantsJson(process.argv));
      // Help and version end with code 0.
      process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
      return;
    }
    tell(WrennError.from(error));
  }
}

/** The error, by a line and the exit code. */
function tell(error: WrennError): void {
  printError(error, wantsJson(process.argv));
  if (error.code === 'internal' && process.env.WRENN_DEBUG !== undefined) console.error(error);
  const code = exitCodeOf(error.kind);
  process.exitCode = passesExitCodeOn && code !== EXIT.timeout ? EXIT.wrennFailed : code;
}

watchOutputs(process, (error) => {
  if (hasReaderLeft(error)) process.exit(READER_LEFT);
  tell(lostOutput(error));
  process.exit();
});
await main();
