import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { chmodSync, chownSync, existsSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { CONSOLE_INIT_STARTED } from '@wrenn/protocol';
import { createWorkbench, waitForLine } from './testing/workbench.ts';
import { createQemuDriver } from './qemu/driver.ts';
import { filesIn, qemuArguments } from './qemu/arguments.ts';
import { hostTscKhz } from './qemu/host-tsc.ts';
const N = Number(process.argv[2] ?? 8);
const med = (a: number[]) => { const s=[...a].sort((x,y)=>x-y); return `median ${s[s.length>>1]?.toFixed(0)} min ${s[0]?.toFixed(0)} max ${s.at(-1)?.toFixed(0)}`; };
const bench = await createWorkbench(77);
const spec = bench.spec({ memoryMib: 256 });
const driver = createQemuDriver({ accelerator: 'tcg' });
const R: Record<string, number[]> = {};
const put = (k: string, v: number) => (R[k] ??= []).push(v);
try {
  for (let i = 0; i < N; i++) {
    { const t = performance.now(); const m = await driver.launch(spec, bench.options()); put('confined launch', performance.now()-t);
      await waitForLine(m, new RegExp(CONSOLE_INIT_STARTED), 60000); put('confined init', performance.now()-t);
      const k = performance.now(); await m.kill(); put('kill', performance.now()-k); }
    { const f = filesIn(spec.runDir); for (const s of [f.qmpSocket, f.consoleSocket]) rmSync(s, { force: true });
      const args = qemuArguments(spec, { accelerator: 'tcg', tscKhz: await hostTscKhz() }).filter((a) => a !== '-S');
      const si = args.indexOf('-sandbox'); args.splice(si, 2);
      const t = performance.now();
      const c = spawn('nsenter', [`--net=/run/netns/${spec.network.netns}`, '--', 'qemu-system-x86_64', ...args], { stdio: 'ignore' });
      const open = async (p: string) => { for (;;) { if (existsSync(p)) { const s = connect(p); const ok = await new Promise((r) => { s.once('connect', () => r(true)); s.once('error', () => r(false)); }); if (ok) return s; } await sleep(1); } };
      const con = await open(f.consoleSocket); let text = ''; const seen = new Promise<void>((r) => con.on('data', (d) => { text += d; if (text.includes(CONSOLE_INIT_STARTED)) r(); }));
      const q = await open(f.qmpSocket); await once(q, 'data'); put('raw qmp', performance.now()-t);
      await seen; put('raw init', performance.now()-t); c.kill('SIGKILL'); await once(c, 'exit'); }
  }
} finally { await bench.dispose(); }
for (const [k, v] of Object.entries(R)) console.log(k.padEnd(18), med(v));
