#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need node
cat >t.js <<'J'
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const fs = require('fs'), net = require('net'), cp = require('child_process'), crypto = require('crypto'), zlib = require('zlib'), http = require('http'), dns = require('dns');
if (!isMainThread) {
  const a = new Int32Array(workerData.buf); for (let i = 0; i < 10000; i++) Atomics.add(a, 0, 1);
  parentPort.postMessage(workerData.n * 2); return;
}
(async () => {
  const buf = new SharedArrayBuffer(4); const rs = await Promise.all([...Array(8).keys()].map(n => new Promise((y, x) => { const w = new Worker(__filename, { workerData: { n, buf } }); w.on('message', y); w.on('error', x); })));
  console.log(rs.join(), new Int32Array(buf)[0]);
  console.log(crypto.createHash('sha256').update('x'.repeat(1e6)).digest('hex').slice(0, 16), zlib.gunzipSync(zlib.gzipSync(Buffer.alloc(1e6, 7))).length);
  await fs.promises.writeFile('f', 'data'); console.log(await fs.promises.readFile('f', 'utf8'), (await fs.promises.stat('f')).size);
  const e = await new Promise(y => { const w = fs.watch('.', (t, n) => { w.close(); y(t + ' ' + n); }); fs.writeFileSync('watched', 'x'); }); console.log(e);
  const s = http.createServer((q, r) => r.end(q.url)).listen('sock'); await new Promise(y => s.on('listening', y));
  const got = await Promise.all([...Array(50).keys()].map(i => new Promise(y => http.get({ socketPath: 'sock', path: '/' + i }, r => { let d = ''; r.on('data', c => d += c); r.on('end', () => y(d)); })))); console.log(got.join('').length); s.close();
  const t = net.createServer(c => c.pipe(c)).listen(0, '127.0.0.1'); await new Promise(y => t.on('listening', y));
  const big = Buffer.alloc(1 << 22, 5); console.log(await new Promise(y => { let n = 0; const c = net.connect(t.address().port, '127.0.0.1'); c.on('data', d => { n += d.length; if (n === big.length) { c.end(); y(n); } }); c.write(big); })); t.close();
  console.log(cp.spawnSync('sh', ['-c', 'echo $0 $$ | cut -c1-2; exit 4']).status, cp.execSync('tr a-z A-Z', { input: 'piped' }).toString());
  const k = cp.fork(__dirname + '/k.js'); console.log(await new Promise(y => { k.on('message', m => { k.disconnect(); y(m); }); k.send({ a: 1 }); }));
  const sl = cp.spawn('sleep', ['100']); setImmediate(() => sl.kill('SIGTERM')); console.log(await new Promise(y => sl.on('exit', (c, g) => y(c + ' ' + g))));
  process.on('SIGUSR2', () => { console.log('SIGUSR2'); process.exit(9); }); process.kill(process.pid, 'SIGUSR2'); setInterval(() => {}, 1000);
})();
J
echo "process.on('message', m => process.send({ b: m.a + 1 }))" >k.js
node t.js; echo "status $?"; node -e 'let n=0; for (let i=0;i<5e7;i++) n=(n*31+i)|0; console.log(n)'; node --max-old-space-size=64 -e 'let a=[]; for(let i=0;i<200;i++){a.push(Buffer.alloc(1<<20)); if(i%5==0)a=[];} console.log("gc")'
node -e 'throw new Error("x")' 2>/dev/null; echo "threw $?"; node -e 'process.abort()' 2>/dev/null; echo "aborted $?"
