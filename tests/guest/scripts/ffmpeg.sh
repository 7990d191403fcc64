#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need ffmpeg
f() { ffmpeg -nostdin -v error -y "$@"; }
f -f lavfi -i testsrc2=s=320x240:r=25:d=2 -f lavfi -i sine=f=440:d=2 -c:v rawvideo -c:a pcm_s16le raw.avi; md5sum <raw.avi
for t in 1 4; do
    f -threads $t -i raw.avi -c:v libx264 -preset veryfast -x264-params threads=$t:sliced-threads=0 -c:a aac -f null -; echo "x264 $?"
    f -i raw.avi -threads $t -c:v mpeg4 -q:v 4 -bitexact -flags +bitexact -an m$t.avi; f -threads $t -i m$t.avi -f framemd5 - | md5sum
done
f -i raw.avi -vf 'scale=640:480:flags=lanczos,hqdn3d,unsharp' -f framemd5 - | md5sum; f -i raw.avi -vf scale=64:48 -c:v ffv1 -bitexact o.mkv; f -i o.mkv -f framemd5 - | md5sum
for c in all 0 mmx sse2 sse4.2 avx avx2; do ffmpeg -nostdin -v error -cpuflags $c -i raw.avi -vf 'scale=200:150' -sws_flags +accurate_rnd+bitexact -frames:v 5 -f framemd5 - | md5sum; done
