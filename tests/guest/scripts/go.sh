#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need go
export GOCACHE=$work/cache GOPATH=$work/gopath GO111MODULE=off GOTOOLCHAIN=local
cat >t.go <<'G'
package main
import ("fmt"; "io"; "net"; "net/http"; "os"; "os/exec"; "os/signal"; "runtime"; "runtime/debug"; "sync"; "sync/atomic"; "syscall"; "time"; "path/filepath")
func main() {
	var wg sync.WaitGroup; var n int64; ch := make(chan int, 100)
	for i := 0; i < 5000; i++ { wg.Add(1); go func(i int) { defer wg.Done(); atomic.AddInt64(&n, int64(i)); ch <- i; runtime.Gosched(); <-ch }(i) }
	wg.Wait(); fmt.Println(n)
	for i := 0; i < 100; i++ { wg.Add(1); go func() { defer wg.Done(); runtime.LockOSThread(); time.Sleep(time.Millisecond) }() }
	wg.Wait(); fmt.Println("locked threads")
	l, err := net.Listen("tcp", "127.0.0.1:0"); if err != nil { panic(err) }
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }))
	var total int64
	for i := 0; i < 200; i++ { wg.Add(1); go func(i int) { defer wg.Done(); r, err := http.Get(fmt.Sprintf("http://%s/%d", l.Addr(), i)); if err != nil { fmt.Println(err); return }; b, _ := io.ReadAll(r.Body); r.Body.Close(); atomic.AddInt64(&total, int64(len(b))) }(i) }
	wg.Wait(); fmt.Println(total)
	c := make(chan os.Signal, 1); signal.Notify(c, syscall.SIGUSR1); syscall.Kill(os.Getpid(), syscall.SIGUSR1); fmt.Println(<-c)
	out, err := exec.Command("sh", "-c", "echo hi; exit 3").Output(); fmt.Printf("%q %v\n", out, err)
	// A goroutine that never calls anything is preempted by a signal.
	go func() { for { } }(); time.Sleep(20 * time.Millisecond); fmt.Println("preempted")
	debug.SetGCPercent(5); var keep [][]byte; for i := 0; i < 500; i++ { keep = append(keep, make([]byte, 100000)); if i%10 == 0 { keep = nil } }; runtime.GC(); fmt.Println("gc")
	func() { defer func() { fmt.Println(recover()) }(); var p *int; *p = 1 }()
	os.MkdirAll("a/b/c", 0o755); m := 0; filepath.Walk(".", func(p string, i os.FileInfo, e error) error { if p == "a/b/c" { m++ }; return nil }); fmt.Println(m)
	t := time.NewTimer(5 * time.Millisecond); select { case <-t.C: fmt.Println("timer"); case <-time.After(10 * time.Second): fmt.Println("late") }
	pr, pw, _ := os.Pipe(); go func() { time.Sleep(5 * time.Millisecond); pw.Write([]byte("x")); pw.Close() }(); b, _ := io.ReadAll(pr); fmt.Printf("%s\n", b)
	os.Exit(7)
}
G
go build -o t t.go && ./t; echo "status $?"; GOMAXPROCS=1 ./t | md5sum; GODEBUG=asyncpreemptoff=0 GOGC=1 ./t | md5sum; go vet t.go && echo vetted
