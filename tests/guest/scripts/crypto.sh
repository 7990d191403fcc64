#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need openssl ssh-keygen gpg
for t in rsa ed25519 ecdsa; do ssh-keygen -q -t $t -N '' -C c -f k$t && ssh-keygen -lf k$t.pub | cut -d' ' -f1,3,4; done
echo hello >m; ssh-keygen -q -Y sign -f ked25519 -n file m 2>/dev/null; echo "u $(cat ked25519.pub)" >allowed; ssh-keygen -Y verify -f allowed -I u -n file -s m.sig <m | cut -d' ' -f1-5
HOME=$work; export HOME GNUPGHOME=$work/g; mkdir -m 700 g; gpg --batch -q --passphrase '' --quick-gen-key 'A <a@b>' ed25519 sign never 2>/dev/null; gpg --batch -q --armor --detach-sign m && gpg --verify m.asc 2>&1 | grep -c 'Good signature'; gpg --batch -q --passphrase x --pinentry-mode loopback -c m && gpg --batch -q --passphrase x --pinentry-mode loopback -d m.gpg; gpgconf --kill all
openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 1 -subj /CN=localhost 2>/dev/null; openssl x509 -in cert -noout -subject
for c in aes-128-gcm aes-256-cbc chacha20-poly1305 sha256 sha512; do openssl speed -seconds 1 -bytes 1024 -evp $c >o 2>/dev/null && tail -1 o | cut -d' ' -f1; done
openssl rand -hex 16 | wc -c; for n in 1 2 3; do echo data | openssl enc -aes-256-cbc -pbkdf2 -pass pass:x | openssl enc -d -aes-256-cbc -pbkdf2 -pass pass:x; done; for d in md5 sha1 sha256 sha512 sha3-256 blake2b512; do openssl dgst -$d <m; done
if command -v sshd >/dev/null && [ -d /run/sshd ]; then
    mkdir -p h; cat ked25519.pub >h/authorized; chmod 600 ked25519 h/authorized
    ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i ked25519 -o "ProxyCommand=$(command -v sshd) -i -f /dev/null -o HostKey=$work/kecdsa -o StrictModes=no -o UsePAM=no -o PidFile=none -o AuthorizedKeysFile=$work/h/authorized -o PermitRootLogin=yes" "$(id -un)@x" 'echo over ssh; exit 5'; echo "ssh $?"
fi
