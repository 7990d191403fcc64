//! Images of squashfs, iso9660 and vfat: damaged for the fuzzing, and mounted in a guest beside the host's view of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uml_ext4::{BlockStore, MemStore};
use uml_rofs::{Iso9660, Squashfs, Tree, Vfat, iso9660, vfat};

use crate::image::{text, tool};
use crate::machine::{self, Start};
use crate::ops::{Random, bytes};
use crate::suite::program;

/// The formats, each with the programs that make its images.
pub const FORMATS: [(&str, &[&str]); 3] = [
    ("squashfs", &["mksquashfs"]),
    ("iso9660", &["genisoimage"]),
    ("vfat", &["mkfs.vfat", "mcopy"]),
];

/// How images of a format are made, as shell lines about the directory `$D` and the image `$I`.
fn lines(format: &str) -> &'static [&'static str] {
    match format {
        "squashfs" => &[
            "mksquashfs $D $I -quiet -no-progress -comp gzip",
            "mksquashfs $D $I -quiet -no-progress -comp lzo -noI",
            "mksquashfs $D $I -quiet -no-progress -comp lz4 -noI",
            "mksquashfs $D $I -quiet -no-progress -comp xz -noI",
            "mksquashfs $D $I -quiet -no-progress -comp zstd",
            "mksquashfs $D $I -quiet -no-progress -comp zstd -noI",
        ],
        "iso9660" => &["genisoimage -quiet -R -o $I $D", "genisoimage -quiet -J -o $I $D"],
        _ => &[
            "mkfs.vfat -C $I 500; mcopy -i $I -s $D/* ::/",
            "mkfs.vfat -C $I 9000; mcopy -i $I -s $D/* ::/",
            "mkfs.vfat -F 32 -s 1 -C $I 34000; mcopy -i $I -s $D/* ::/",
        ],
    }
}

/// Makes an image by a shell line.
fn make(line: &str, src: &Path, img: &Path) -> Result<(), String> {
    let _ = fs::remove_file(img);
    let all = format!(
        "PATH=$PATH:/usr/sbin:/sbin TZ=UTC; D='{}' I='{}'; {{ {line}; }} >&2",
        text(src),
        text(img)
    );
    tool("sh", &["-ec", &all], &[0]).map(drop)
}

/// Images to damage.
pub struct Trees(Vec<(&'static str, Vec<u8>)>);

impl Trees {
    /// Small images of each format whose programs are there.
    pub fn make() -> Result<Trees, String> {
        let tmp = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (src, img) = (tmp.path().join("src"), tmp.path().join("image"));
        let io = |e: std::io::Error| e.to_string();
        fs::create_dir_all(src.join("d/e")).map_err(io)?;
        for i in 0..30 {
            let data = bytes(i, i as usize * 500);
            fs::write(src.join(format!("a rather long file name {i}")), data).map_err(io)?;
        }
        let mut all = Vec::new();
        for (format, programs) in FORMATS {
            if programs.iter().any(|p| program(p).is_none()) {
                continue;
            }
            for line in lines(format) {
                make(line, &src, &img)?;
                all.push((format, fs::read(&img).map_err(io)?));
            }
        }
        Ok(Trees(all))
    }

    /// There is an image of that format.
    pub fn has(&self, format: &str) -> bool {
        self.0.iter().any(|(f, _)| *f == format)
    }

    /// Damages an image of a format by `damage` and uses what there is.
    pub fn round(&self, format: &str, r: &mut Random, damage: fn(&mut [u8], usize, &mut Random)) {
        let all: Vec<_> = self.0.iter().filter(|(f, _)| *f == format).collect();
        if all.is_empty() {
            return;
        }
        let mut img = all[r.below(all.len() as u64) as usize].1.clone();
        for _ in 0..1 + r.below(6) {
            // Structures are in front, or at the end, as a rule.
            let near = img.len().min([600, 8192, 80_000, usize::MAX][r.below(4) as usize]);
            let at = r.below(near as u64) as usize;
            let at = if r.below(3) == 0 { img.len() - 1 - at } else { at };
            damage(&mut img, at, r);
        }
        if let Some(fs) = open(format, Arc::new(MemStore::new(img))) {
            exercise(&*fs, r);
        }
    }
}

fn open(format: &str, s: Arc<dyn BlockStore>) -> Option<Box<dyn Tree>> {
    Some(match format {
        "squashfs" => Box::new(Squashfs::open(s).ok()?),
        "iso9660" => Box::new(Iso9660::open(s, iso9660::Options::default()).ok()?),
        _ => Box::new(Vfat::open(s, vfat::Options::default()).ok()?),
    })
}

/// Walks through the files, a bounded number of them, ignoring errors.
fn exercise(fs: &dyn Tree, r: &mut Random) {
    let mut todo = vec![fs.root()];
    let mut buf = vec![0; 50_000];
    let _ = fs.statfs();
    for _ in 0..50 {
        let Some(node) = todo.pop() else { return };
        let Ok(a) = fs.attr(node) else { continue };
        let _ = fs.readlink(node);
        for name in fs.listxattr(node).unwrap_or_default().iter().take(5) {
            let _ = fs.getxattr(node, name);
        }
        let _ = fs.read(node, 0, &mut buf);
        let _ = fs.read(node, r.below(a.size.max(1)), &mut buf);
        let mut names = Vec::new();
        let _ = fs.readdir(node, r.below(2) * r.below(5000), &mut |e| {
            names.push(e.name.to_vec());
            names.len() < 30
        });
        todo.extend(names.iter().filter_map(|n| fs.lookup(node, n).ok()));
    }
}

/// Says everything about the files below the working directory that the formats keep.
const CONTENTS: &str = "find . -type f -print0 | sort -z | xargs -0 sha256sum";
const POSIX: &str =
    "find . ! -type d -print0 | sort -z | xargs -0 stat -c '%n %f %u %g %s %h %t %T %Y %N'";
const ALL: &str = "find . -print0 | sort -z | xargs -0 stat -c '%n %f %u %g %s %b %h %i %t %T %X %Y %Z %o'; stat -f -c '%b %f %a %c %d %l %s %S %t' .";

fn tree(src: &Path) -> Result<(), String> {
    let line = "
        mkdir -p $D/plain/sub/deeper $D/posix/dir; cd $D/plain
        printf hello >small; : >empty; head -c 300001 /dev/urandom >noise; seq 1 60000 >numbers
        for i in $(seq 1 60); do echo $i >\"sub/Name with blanks $i\"; done; cp /bin/true sub/program
        cd ../posix; cp ../plain/noise .; ln -s ../plain/small link; ln noise hard; mkfifo fifo
        truncate -s 2M sparse; printf end >>sparse; chmod 4711 noise; chmod 1777 dir
        if [ $(id -u) = 0 ]; then mknod char c 5 1; chown 1000:2000 link sparse; fi
        find $D -exec touch -h -d @1000000001 {} +";
    make(line, src, Path::new("/nonexistent/image"))
}

/// Lists a directory of the host by a shell line.
fn listing(dir: &Path, line: &str) -> Result<String, String> {
    tool("sh", &["-ec", &format!("cd '{}'; {line}", text(dir))], &[0])
}

/// What a guest said between two lines with `mark`.
fn between<'a>(out: &'a str, mark: &str) -> Result<&'a str, String> {
    let part = out.split(&format!("<{mark}>\n")).nth(1);
    let part = part.and_then(|p| p.split(&format!("</{mark}>")).next());
    part.ok_or_else(|| format!("the guest did not say {mark}: {out}"))
}

fn same(what: &str, guest: &str, host: &str) -> Result<(), String> {
    match guest.lines().zip(host.lines()).find(|(g, h)| g != h) {
        Some((g, h)) => Err(format!("{what}: the guest has\n  {g}\nthe host\n  {h}")),
        None if guest.lines().count() != host.lines().count() => {
            Err(format!("{what}: the guest has\n{guest}\nthe host\n{host}"))
        }
        None => Ok(()),
    }
}

/// Each format mounted in a guest: contents and attributes are those of the source and, for what the host's kernel
/// mounts, of its mount.
pub fn mounted(dir: &Path) -> Result<(), String> {
    let src = dir.join("src");
    tree(&src)?;
    let img = |f: &str| -> PathBuf { dir.join(format!("{f}.img")) };
    make("mksquashfs $D $I -quiet -no-progress -comp xz", &src, &img("squashfs"))?;
    make("genisoimage -quiet -R -J -o $I $D", &src, &img("iso9660"))?;
    make("mkfs.vfat -F 32 -s 1 -C $I 34000; mcopy -m -i $I -s $D/plain ::/", &src, &img("vfat"))?;
    let mut script = String::new();
    for (i, (format, _)) in FORMATS.iter().enumerate() {
        let dev = format!("/dev/ubd{}", ["b", "c", "d"][i]);
        script.push_str(&format!(
            "mkdir -p /mnt/{format}; cd /mnt/{format}; grep -q '^\\s{format}$' /proc/filesystems || echo no type
             mount -t {format} -o ro {dev} /mnt/{format}; cd /mnt/{format}
             echo '<{format} contents>'; {CONTENTS}; echo '</{format} contents>'
             echo '<{format} posix>'; {POSIX}; echo '</{format} posix>'
             echo '<{format} all>'; {ALL}; echo '</{format} all>'
             touch new 2>&1 | grep -q 'Read-only file system' || echo {format} can be written
             sh -c 'echo x >plain/small' 2>&1 | grep -q 'Read-only file system' || echo {format} can be written
             plain/sub/program && echo {format} runs
             cd /; umount /mnt/{format}; mount {dev} /mnt/{format} && echo {format} found
             stat -f -c 'type of {format} %T' /mnt/{format}; grep ' /mnt/{format} {format} ro' /proc/mounts | wc -l
             mount -t {format} -o remount,rw {dev} /mnt/{format} 2>/dev/null; touch /mnt/{format}/n 2>/dev/null && echo {format} can be written
             umount /mnt/{format}\n"
        ));
    }
    script.push_str(
        "mount -t vfat -o ro,uid=12,gid=13,fmask=0137,dmask=0027,shortname=lower,iocharset=utf8 /dev/ubdd /mnt/vfat
         stat -c 'vfat options %u %g %a' /mnt/vfat/plain/small /mnt/vfat/plain; umount /mnt/vfat
         mount -t iso9660 -o ro,norock,nojoliet /dev/ubdc /mnt/iso9660; ls -d /mnt/iso9660/plain/sub/name_wit.*
         umount /mnt/iso9660; mount -t vfat -o ro,nonsense /dev/ubdd /mnt/vfat 2>&1 | grep -o 'wrong fs type'
         mount -t squashfs /dev/ubdd /mnt/vfat 2>&1 | grep -o 'wrong fs type'\n",
    );
    let disks: Vec<String> = FORMATS
        .iter()
        .enumerate()
        .map(|(i, (f, _))| format!("ubd{}r={}", i + 1, img(f).display()))
        .collect();
    let start = Start { dir, disks: &disks, memory: 128, script: &script };
    let out = machine::run(&start, std::time::Duration::from_secs(300))?;
    for (format, _) in FORMATS {
        let host = if format == "vfat" { src.join("plain") } else { src.clone() };
        let found = between(&out, &format!("{format} contents"))?;
        let found = if format == "vfat" { found.replace("./plain/", "./") } else { found.into() };
        same(&format!("{format}: contents"), &found, &listing(&host, CONTENTS)?)?;
        if format != "vfat" {
            let found = between(&out, &format!("{format} posix"))?;
            same(&format!("{format}: attributes"), found, &listing(&host, POSIX)?)?;
        }
        for w in [format!("{format} runs"), format!("{format} found\n")] {
            if !out.contains(&w) {
                return Err(format!("no \"{w}\" in\n{out}"));
            }
        }
        if out.contains(&format!("{format} can be written")) || out.contains("no type") {
            return Err(out);
        }
    }
    for w in [
        "type of squashfs squashfs\n1\n",
        "type of iso9660 isofs\n1\n",
        "type of vfat msdos\n1\n",
        "vfat options 12 13 640\nvfat options 12 13 750\n",
        "/plain/sub/name_wit.",
        "wrong fs type\nwrong fs type\n",
    ] {
        if !out.contains(w) {
            return Err(format!("no \"{w}\" in\n{out}"));
        }
    }
    for (format, _) in FORMATS {
        let at = dir.join("host");
        fs::create_dir_all(&at).map_err(|e| e.to_string())?;
        let opt = ["-t", format, "-o", "loop,ro,umask=022", text(&img(format)), text(&at)]
            .map(String::from);
        let mut args: Vec<&str> = opt.iter().map(String::as_str).collect();
        if format != "vfat" {
            args[3] = "loop,ro";
        }
        if tool("mount", &args, &[0]).is_err() {
            println!("        the host does not mount {format}: not compared with its mount");
            continue;
        }
        let r = listing(&at, ALL);
        tool("umount", &[text(&at)], &[0])?;
        same(
            &format!("{format}: the host's mount"),
            between(&out, &format!("{format} all"))?,
            &r?,
        )?;
    }
    Ok(())
}

/// A root filesystem without a type is found and mounted read-only.
pub fn root(dir: &Path) -> Result<(), String> {
    let src = dir.join("src");
    fs::create_dir_all(src.join("dev")).map_err(|e| e.to_string())?;
    fs::write(src.join("init"), "#!/nothing\n").map_err(|e| e.to_string())?;
    for (format, _) in FORMATS {
        let img = dir.join(format);
        make(lines(format)[0], &src, &img)?;
        // Without a program to start the machine ends by a panic, after it has said what it mounted.
        let args = [
            "mem=64M".into(),
            "root=/dev/ubda".into(),
            "rw".into(),
            "con=null".into(),
            "con0=null,fd:1".into(),
            format!("uml_dir={}", dir.join("uml").display()),
            format!("ubd0={}", img.display()),
        ];
        let args: Vec<&str> = args.iter().map(|s: &String| s.as_str()).collect();
        let all: Vec<i32> = (0..256).collect();
        let out = tool("linux", &args, &all)
            .or_else(|e| if e.contains("signal") { Ok(e) } else { Err(e) })?;
        let mounted = format!("VFS: Mounted root ({format} filesystem) readonly on device 98:0.");
        if !out.contains(&mounted) {
            return Err(format!("no \"{mounted}\" in\n{out}"));
        }
    }
    Ok(())
}
