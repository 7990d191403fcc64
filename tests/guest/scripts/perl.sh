#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need perl
cat > t.pl <<'S'
use strict; use warnings; use POSIX qw(:sys_wait_h :signal_h setsid strftime); use Fcntl qw(:flock :seek :mode); use Socket; use IO::Select; use File::Temp; use File::Find; use Time::HiRes ();
$| = 1;
my @k = map { my $n = $_; my $p = fork // die; exit $n if !$p; $p } 1..5; my %s; for (@k) { waitpid($_, 0); $s{$? >> 8}++ } print join(",", sort keys %s), "\n";
pipe(my $r, my $w); if (!fork) { close $r; print $w "line $_\n" for 1..3; exit } close $w; print while <$r>; wait;
{ local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; select(undef, undef, undef, 30); }; print "caught $@"; }
my $c = 0; local $SIG{USR1} = sub { $c++ }; kill USR1 => $$ for 1..3; print "signals ", $c > 0 ? 1 : 0, "\n";
open my $f, '+>', 'data' or die; flock $f, LOCK_EX or die; print $f "0123456789"; seek $f, 3, SEEK_SET; read $f, my $got, 4; print "$got\n"; truncate $f, 5; close $f; print -s 'data', "\n";
socketpair(my $y, my $z, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; syswrite $y, "ping"; sysread $z, my $m, 10; print "$m\n"; print scalar((() = IO::Select->new($y)->can_read(0))), "\n";
my $u = 'sock'; socket(my $l, PF_UNIX, SOCK_STREAM, 0); bind $l, sockaddr_un($u); listen $l, 5; if (!fork) { socket(my $q, PF_UNIX, SOCK_STREAM, 0); connect $q, sockaddr_un($u); syswrite $q, "client"; exit } accept(my $cl, $l); sysread $cl, my $t, 20; print "$t\n"; wait;
mkdir 'd'; for my $i (1..5) { open my $h, '>', "d/$i" or die; print $h 'x' x $i } my $t2 = 0; find(sub { $t2 += -s if -f }, 'd'); print "$t2\n"; printf "%o\n", S_IMODE((stat 'd')[2]);
my $o = `echo back; exit 3`; chomp $o; print "$o ", $? >> 8, "\n"; system('kill -9 $$'); print $? & 127, "\n";
print join(' ', sort { $a <=> $b } map { $_ * 3 % 17 } 1..16), "\n"; print crypt("a", "ab") ? "crypt\n" : ''; print strftime("%F", gmtime 86400*365), "\n"; print "$!\n" if !open my $n, '<', '/nonexistent'; printf "%s\n", unpack 'H*', pack 'NnC', 1, 2, 3;
my $pid = fork; if (!$pid) { setsid; exec 'true' } waitpid $pid, 0; print "exec $?\n"; print "done\n";
S
perl t.pl
