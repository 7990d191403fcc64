# Rules made and shown by nft, iptables and ip6tables: the same transcript on Linux and in a guest, errors and handles included.
nft add table ip x
nft add chain ip x y
nft add rule ip x z accept
nft add rule ip x y jump q
nft add chain ip x y2; nft add rule ip x y jump y2; nft add rule ip x y2 jump y
nft delete chain ip x y2
nft delete table ip nonexist
nft create table ip x
nft add chain ip x nn '{ type nat hook forward priority 0; }'
nft add rule ip x y masquerade
nft add chain ip x c2 '{ type filter hook input priority 0; }'; nft add rule ip x c2 masquerade
nft add set ip x s '{ type ipv4_addr; flags interval; }'; nft add element ip x s '{ 1.2.3.0/24, 1.2.4.5-1.2.4.9 }'; nft add element ip x s '{ 1.2.3.4 }'
nft add rule ip x y ip saddr @nos drop
nft add rule ip x y ip saddr @s drop; nft delete set ip x s
nft delete rule ip x y handle 99
nft add rule ip x y position 99 accept
nft add map ip x m '{ type ipv4_addr : verdict; }'; nft add element ip x m '{ 1.1.1.1 : drop, 2.2.2.2 : jump y2 }';nft add rule ip x y ip daddr vmap @m
nft get element ip x m '{ 1.1.1.1 }'; nft get element ip x m '{ 1.1.1.7 }'
nft delete element ip x m '{ 1.1.1.9 }'
nft create element ip x m '{ 1.1.1.1 : drop }'
nft add element ip x m '{ 1.1.1.1 : accept }'
nft rename chain ip x y2 y3
nft add counter ip x cn; nft add rule ip x y counter name cn; nft list counters
nft add rule ip x y limit rate 5/second burst 7 packets log prefix \"foo \" group 3 drop
nft insert rule ip x y  tcp flags syn tcp option maxseg size set 1400
nft add rule ip x y numgen inc mod 2 vmap '{ 0 : drop, 1 : accept }'
nft add rule ip x y fib saddr . iif oif missing drop
nft add rule ip x y meta mark set ct mark
nft add rule ip x y ct mark set 5
nft add rule ip x y update @s2 '{ ip saddr timeout 5s }'
nft add set ip x dyn '{ type ipv4_addr; flags dynamic,timeout; timeout 1m; size 10; }'
nft add rule ip x y update @dyn '{ ip saddr limit rate 3/second }' drop
nft add rule ip x y ip dscp set 3
nft add rule ip x y quota over 5 mbytes drop
nft add chain ip x pp '{ type nat hook prerouting priority dstnat; }'
nft add rule ip x pp dnat to 10.0.0.1-10.0.0.5:80-90 random,persistent
nft add rule ip x pp tcp dport 5 redirect to :80
nft add rule ip x pp dnat to ip saddr . tcp dport map '{ 1.1.1.1 . 5 : 2.2.2.2 . 80 }'
nft add rule ip x c2 reject with icmp host-unreachable
nft add rule ip x c2 ct original saddr 1.2.3.4 ct count over 5 meta skuid 7 drop
nft -a list ruleset
nft --debug=netlink list table ip x | grep -v "^	element"
nft -j list ruleset
nft list sets; nft list maps; nft list counters; nft list chain ip x y; nft list set ip x s
nft 'add table inet w { flags dormant; }'; nft list table inet w
nft add table inet w; nft list tables
nft -e -a add table ip6 e | sed 's/generation.*/generation/'
nft -e -a add chain ip6 e c | sed 's/generation.*/generation/'
nft -e -a add rule ip6 e c ip6 saddr ::1 counter | sed 's/generation.*/generation/'
nft insert rule ip6 e c counter comment '"a comment"'
nft replace rule ip6 e c handle 2 ip6 daddr ::1 drop
nft add rule ip6 e c position 3 accept
nft insert rule ip6 e c position 3 drop
nft -a list chain ip6 e c
nft add chain inet w b '{ jump { ip saddr 1.2.3.4 drop; } ; }'
nft add rule inet w b tcp dport 22 jump '{ ip saddr 1.2.3.4 drop; counter; }'
nft list table inet w
nft flush chain inet w b
nft list table inet w
nft add set inet w z '{ type ipv4_addr . inet_service; flags interval; }'
nft add element inet w z '{ 10.0.0.0/8 . 80-90, 192.168.1.1 . 443 }'
nft get element inet w z '{ 10.1.1.1 . 85 }'
nft add element inet w z '{ 10.1.0.0/16 . 81 }'
nft delete element inet w z '{ 192.168.1.1 . 443 }'
nft list set inet w z
nft add set inet w ts '{ type inet_service; timeout 1h; }'
nft add element inet w ts '{ 1, 2 timeout 1d }'; nft list set inet w ts | sed 's/ expires [0-9smhd]*//g'; nft delete set inet w ts
nft add set inet w ifs '{ type ifname; elements = { "lo", "eth0" }; }'
nft add rule inet w b iifname @ifs meta nfproto ipv6 th dport 53 meta pkttype broadcast ct mark 1 accept
nft add rule inet w b ip6 nexthdr tcp ip6 hoplimit lt 5 exthdr frag exists drop
nft add rule inet w b icmpv6 type '{ nd-neighbor-solicit, nd-router-advert }' icmp type echo-request accept
nft add rule inet w b meta l4proto '{ tcp, udp }' th dport '{ 1-3, 7 }' ct status dnat ct direction original notrack
nft add rule inet w b ip saddr 1.2.3.4 ip daddr != 5.6.0.0/16 ip frag-off '&' 0x1fff != 0 counter
nft list table inet w
nft delete table inet w
printf 'add table ip a\nadd chain ip a b\nadd rule ip a b jump nowhere\n' | nft -f -
nft list table ip a
nft list table ip nowhere; nft list chain ip x nowhere; nft list set ip x nowhere
nft flush set ip x s; nft list set ip x s
nft flush table ip x; nft delete set ip x s; nft delete chain ip x y; nft -a list table ip x
nft reset counters
nft flush ruleset; nft list ruleset
iptables -A INPUT -p tcp -m conntrack --ctstate ESTABLISHED -m multiport --dports 1,2 -m comment --comment hi -j REJECT
iptables -A INPUT -p tcp --dport 22 -m state --state NEW -j ACCEPT
iptables -A INPUT -p icmp --icmp-type echo-request -m limit --limit 5/min -j LOG --log-prefix foo
iptables -A INPUT -i eth0 -s 10.0.0.0/8 -m mark --mark 5 -j DROP
iptables -A INPUT -p udp -m udp --sport 1:1024 -m addrtype --dst-type LOCAL -j RETURN
iptables -A INPUT -m iprange --src-range 1.2.3.4-1.2.3.9 -m length --length 1:100 -m ttl --ttl-gt 3 -j DROP
iptables -A INPUT -m mac --mac-source 00:11:22:33:44:55 -m pkttype --pkt-type multicast -m tos --tos 4 -m statistic --mode nth --every 2 -j DROP
iptables -N foo; iptables -A INPUT -j foo; iptables -A foo -p tcp --syn -m tcpmss --mss 1:100 -j REJECT --reject-with tcp-reset
iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE
iptables -t nat -A POSTROUTING -s 10.0.0.0/8 -j SNAT --to-source 1.2.3.4
iptables -t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2:8080
iptables -t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 8080
iptables -t mangle -A PREROUTING -j MARK --set-mark 5
iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
iptables -t mangle -A PREROUTING -j CONNMARK --save-mark
iptables -t raw -A PREROUTING -j NOTRACK
ip6tables -A INPUT -p icmpv6 -m hl --hl-eq 255 -j ACCEPT
ip6tables -A INPUT -j REJECT
iptables -S; iptables -t nat -S; iptables -t mangle -S; iptables -t raw -S; ip6tables -S
iptables -L -v -n; iptables -t nat -L -n --line-numbers; iptables-save | grep -v '^#'
nft list ruleset
iptables -P FORWARD DROP; iptables -I INPUT 2 -s 10.9.9.9 -j ACCEPT; iptables -R INPUT 1 -j ACCEPT; iptables -D INPUT 3
iptables -C INPUT -s 10.9.9.9 -j ACCEPT; echo $?; iptables -C INPUT -s 10.9.9.8 -j ACCEPT; echo $?
iptables -N foo; iptables -X foo; iptables -A INPUT -j nowhere; iptables -D INPUT 77; iptables -L nowhere
iptables -t nat -A INPUT -j MASQUERADE; iptables -A INPUT -j MASQUERADE
iptables -Z; iptables -S -v
iptables -F; iptables -X foo; iptables -S
printf '*filter\n:INPUT DROP [5:300]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:mine - [0:0]\n[3:200] -A INPUT -i lo -j mine\n-A mine -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n' | iptables-restore -c
iptables-save -c | grep -v '^#'
