#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need java javac
cat >T.java <<'J'
import java.io.*; import java.net.*; import java.nio.*; import java.nio.channels.*; import java.nio.file.*; import java.util.*; import java.util.concurrent.*; import java.util.stream.*;
public class T {
    static long fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
    public static void main(String[] a) throws Exception {
        System.out.println(fib(30));
        ExecutorService e = Executors.newFixedThreadPool(16);
        List<Future<Long>> l = new ArrayList<>();
        for (int i = 0; i < 64; i++) { int n = i; l.add(e.submit(() -> LongStream.range(0, 10000).map(x -> x ^ n).sum())); }
        long s = 0; for (Future<Long> f : l) s += f.get(); System.out.println(s); e.shutdown();
        System.out.println(IntStream.range(0, 1000000).parallel().filter(x -> x % 7 == 0).count());
        Path p = Paths.get("f"); try (FileChannel c = FileChannel.open(p, StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            MappedByteBuffer m = c.map(FileChannel.MapMode.READ_WRITE, 0, 1 << 20); for (int i = 0; i < 1 << 20; i++) m.put(i, (byte) i); m.force(); System.out.println(c.size()); try (FileLock k = c.lock()) { System.out.println(k.isValid()); } }
        ServerSocket ss = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
        Thread t = new Thread(() -> { try (Socket k = ss.accept()) { k.getInputStream().transferTo(k.getOutputStream()); } catch (IOException x) { System.out.println(x); } }); t.start();
        try (Socket k = new Socket(ss.getInetAddress(), ss.getLocalPort())) { k.getOutputStream().write("echo\n".getBytes()); k.shutdownOutput(); System.out.print(new String(k.getInputStream().readAllBytes())); } t.join();
        Process q = new ProcessBuilder("sh", "-c", "echo out; echo err >&2; exit 3").redirectErrorStream(true).start(); System.out.print(new String(q.getInputStream().readAllBytes())); System.out.println(q.waitFor());
        try { int[] z = null; System.out.println(z.length); } catch (NullPointerException x) { System.out.println("npe"); }
        try { deep(0); } catch (StackOverflowError x) { System.out.println("stack overflow"); }
        List<byte[]> keep = new ArrayList<>(); for (int i = 0; i < 200; i++) { keep.add(new byte[1 << 20]); if (i % 3 == 0) keep.clear(); } System.gc(); System.out.println("gc");
        Object o = new Object(); Thread[] ts = new Thread[200]; int[] n = { 0 }; for (int i = 0; i < 200; i++) { ts[i] = new Thread(() -> { for (int j = 0; j < 100; j++) synchronized (o) { n[0]++; } }); ts[i].start(); } for (Thread x : ts) x.join(); System.out.println(n[0]);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook")));
        WatchService w = FileSystems.getDefault().newWatchService(); Path d = Files.createTempDirectory(Paths.get("."), "d"); d.register(w, StandardWatchEventKinds.ENTRY_CREATE); Files.createFile(d.resolve("x")); System.out.println(w.take().pollEvents().get(0).context());
    }
    static int deep(int n) { return deep(n + 1) + 1; }
}
J
javac -d . T.java && java -Xmx256m -cp . T; echo "status $?"
for gc in Serial Parallel G1; do java -XX:+Use${gc}GC -Xmx128m -cp . T | md5sum; done
java -Xint -Xmx128m -version 2>&1 | head -1 | cut -d' ' -f1; java -cp . T </dev/null >/dev/null & p=$!; kill -TERM $p; wait $p 2>/dev/null; echo "terminated $?"
