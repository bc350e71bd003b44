//! Which system calls a jailed program may not make. An empty network namespace alone leaves doors: Unix sockets by path,
//! sockets of the hypervisor, rings that open sockets without `socket`, keys whose look-up asks a resolver outside.
//!
//! Calls that are refused answer with an error that programs know to handle. A filter sees numbers only, not what
//! pointers point at, so whole families are refused where one use would leak.

use nix::libc;
use seccompiler::sock_filter;

/// linux/audit.h: the architecture this program is built for.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

/// Numbers from here on are the x32 ABI on x86-64, the same calls by other numbers.
const X32: u32 = 0x4000_0000;
/// The last call that was looked at for this list (`file_setattr`, Linux 6.17). What a later kernel adds is refused.
const LAST_KNOWN: u32 = 469;

// linux/bpf_common.h
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

// linux/seccomp.h
const ALLOW: u32 = 0x7FFF_0000;
const ERROR: u32 = 0x0005_0000;
const KILL: u32 = 0x8000_0000;
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

/// Flags that make new namespaces.
#[allow(clippy::cast_sign_loss)]
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u32;
/// `CLONE_NEWTIME`: for `unshare` alone; `clone` reads these bits as a signal.
const NEW_TIME: u32 = 0x80;
/// What stands in a socket's type beside the type.
const TYPE_MASK: u32 = 0xf;

/// Calls that say they don't exist, so that programs fall back to what can be filtered.
const ABSENT: &[libc::c_long] = &[
    // Flags behind a pointer: the C library falls back to clone.
    libc::SYS_clone3,
    // They open and use sockets without `socket`.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Calls that are not permitted.
const REFUSED: &[libc::c_long] = &[
    // Other namespaces, and other views of the file system.
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    467, // open_tree_attr
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Keyrings are no namespace's; asking for a key can start a resolver outside.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // Programs in the kernel, and windows into it.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_syslog,
    // Other processes' descriptors and memory.
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    443, // quotactl_fd
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Terminal requests that put words into the mouth of the shell outside.
const TERMINAL: [u32; 2] = [0x5412 /* TIOCSTI */, 0x541C /* TIOCLINUX */];

// asm-generic/socket.h
const SOL_SOCKET: u32 = 1;
const SO_BINDTODEVICE: u32 = 25;
const SO_BINDTOIFINDEX: u32 = 62;

fn step(code: u16, yes: u8, no: u8, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: yes,
        jf: no,
        k,
    }
}

fn end(verdict: u32) -> sock_filter {
    step(RETURN, 0, 0, verdict)
}

#[allow(clippy::cast_sign_loss)]
fn refuse(errno: i32) -> sock_filter {
    end(ERROR | errno as u32)
}

/// Loads the low half of an argument: the kernel reads the arguments that are looked at here as 32 bits too.
fn argument(index: u32) -> sock_filter {
    step(LOAD, 0, 0, OFFSET_ARGUMENTS + 8 * index)
}

/// What to do for one call; `body` must end with a verdict on every way.
fn on(program: &mut Vec<sock_filter>, call: libc::c_long, body: Vec<sock_filter>) {
    let number = u32::try_from(call).unwrap_or(u32::MAX);
    let skip = u8::try_from(body.len()).unwrap_or(u8::MAX);
    program.push(step(JUMP_EQUAL, 0, skip, number));
    program.extend(body);
}

#[allow(clippy::cast_sign_loss)]
fn sockets(program: &mut Vec<sock_filter>) {
    let equal = |value: i32, yes, no| step(JUMP_EQUAL, yes, no, value as u32);
    let body = vec![
        argument(0),
        equal(libc::AF_INET, 3, 0),
        equal(libc::AF_INET6, 2, 0),
        equal(libc::AF_NETLINK, 10, 0),
        // Unix sockets by path reach resolvers, buses, displays and agents outside; the rest reaches the hypervisor, the wire,
        // radios, the kernel's cryptography.
        refuse(libc::EAFNOSUPPORT),
        // Internet: streams and datagrams of TCP and UDP. No raw sockets, no pings, nothing that isn't caught.
        argument(2),
        equal(0, 2, 0),
        equal(libc::IPPROTO_TCP, 1, 0),
        equal(libc::IPPROTO_UDP, 0, 7),
        argument(1),
        step(AND, 0, 0, TYPE_MASK),
        equal(libc::SOCK_STREAM, 5, 0),
        equal(libc::SOCK_DGRAM, 4, 0),
        refuse(libc::EPERM),
        // Netlink: links and addresses of this namespace, which the C library asks for.
        argument(2),
        equal(libc::NETLINK_ROUTE, 1, 0),
        refuse(libc::EPROTONOSUPPORT),
        end(ALLOW),
    ];
    on(program, libc::SYS_socket, body);
    // A pair is private to the program, except that a datagram socket can send to any path.
    let pair = vec![
        argument(0),
        equal(libc::AF_UNIX, 0, 4),
        argument(1),
        step(AND, 0, 0, TYPE_MASK),
        equal(libc::SOCK_STREAM, 2, 0),
        equal(libc::SOCK_SEQPACKET, 1, 0),
        refuse(libc::EOPNOTSUPP),
        end(ALLOW),
    ];
    on(program, libc::SYS_socketpair, pair);
}

/// The filter, from the top to its end.
pub(super) fn program() -> Vec<sock_filter> {
    let mut program = vec![
        step(LOAD, 0, 0, OFFSET_ARCH),
        step(JUMP_EQUAL, 1, 0, ARCH),
        // Another architecture's calls have other numbers.
        end(KILL),
        step(LOAD, 0, 0, OFFSET_NUMBER),
        step(JUMP_GREATER_OR_EQUAL, 0, 1, X32.min(LAST_KNOWN + 1)),
        refuse(libc::ENOSYS),
    ];
    sockets(&mut program);
    for call in ABSENT {
        on(&mut program, *call, vec![refuse(libc::ENOSYS)]);
    }
    for call in REFUSED {
        on(&mut program, *call, vec![refuse(libc::EPERM)]);
    }
    // A new user namespace would hold every capability over new namespaces.
    for (call, flags) in [
        (libc::SYS_clone, NEW_NAMESPACES),
        (libc::SYS_unshare, NEW_NAMESPACES | NEW_TIME),
    ] {
        let body = vec![
            argument(0),
            step(JUMP_ANY_BIT, 0, 1, flags),
            refuse(libc::EPERM),
            end(ALLOW),
        ];
        on(&mut program, call, body);
    }
    let terminal = vec![
        argument(1),
        step(JUMP_EQUAL, 1, 0, TERMINAL[0]),
        step(JUMP_EQUAL, 0, 1, TERMINAL[1]),
        refuse(libc::EPERM),
        end(ALLOW),
    ];
    on(&mut program, libc::SYS_ioctl, terminal);
    // All interfaces inside lead to the same place, by way of `lo`, whose answers a socket bound to another one would not
    // hear. So binding to one succeeds, and changes nothing; libtorrent insists on it.
    let bind_to_device = vec![
        argument(1),
        step(JUMP_EQUAL, 0, 4, SOL_SOCKET),
        argument(2),
        step(JUMP_EQUAL, 1, 0, SO_BINDTODEVICE),
        step(JUMP_EQUAL, 0, 1, SO_BINDTOIFINDEX),
        refuse(0),
        end(ALLOW),
    ];
    on(&mut program, libc::SYS_setsockopt, bind_to_device);
    program.push(end(ALLOW));
    program
}

#[cfg(test)]
#[allow(clippy::cast_sign_loss)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn verdict_as(arch: u32, call: libc::c_long, arguments: [u64; 6]) -> u32 {
        let program = program();
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let now = &program[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { now.jt } else { now.jf });
            match now.code {
                LOAD => {
                    value = match now.k {
                        OFFSET_NUMBER => call as u32,
                        OFFSET_ARCH => arch,
                        offset => {
                            let offset = offset - OFFSET_ARGUMENTS;
                            assert_eq!(offset % 8, 0);
                            arguments[offset as usize / 8] as u32
                        }
                    }
                }
                AND => value &= now.k,
                JUMP_EQUAL => at += jump(value == now.k),
                JUMP_GREATER_OR_EQUAL => at += jump(value >= now.k),
                JUMP_ANY_BIT => at += jump(value & now.k != 0),
                RETURN => return now.k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    fn verdict(call: libc::c_long, arguments: &[i64]) -> u32 {
        let mut all = [0; 6];
        for (to, from) in all.iter_mut().zip(arguments) {
            *to = *from as u64;
        }
        verdict_as(ARCH, call, all)
    }

    fn error(errno: i32) -> u32 {
        ERROR | errno as u32
    }

    fn socket(family: i32, kind: i32, protocol: i32) -> u32 {
        let arguments = [family, kind, protocol].map(i64::from);
        verdict(libc::SYS_socket, &arguments)
    }

    #[test]
    fn internet_sockets_are_made_as_streams_and_datagrams_alone() {
        for family in [libc::AF_INET, libc::AF_INET6] {
            for (kind, protocol) in [
                (libc::SOCK_STREAM, 0),
                (libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_TCP),
                (libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0),
                (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            ] {
                assert_eq!(socket(family, kind, protocol), ALLOW);
            }
            for (kind, protocol) in [
                (libc::SOCK_RAW, libc::IPPROTO_ICMP),
                (libc::SOCK_RAW, libc::IPPROTO_TCP),
                (libc::SOCK_RAW, 0),
                (libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
                (libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6),
                (libc::SOCK_STREAM, libc::IPPROTO_SCTP),
                (libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
                // SOCK_PACKET, which the libraries no longer name.
                (10, 0),
            ] {
                assert_ne!(socket(family, kind, protocol), ALLOW, "{kind} {protocol}");
            }
        }
    }

    #[test]
    fn no_other_family_opens_but_the_kernels_own_links_and_addresses() {
        for family in (0..64).filter(|family| ![2, 10, 16].contains(family)) {
            for kind in 0..16 {
                assert_eq!(socket(family, kind, 0), error(libc::EAFNOSUPPORT));
            }
        }
        let raw = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        assert_eq!(socket(libc::AF_NETLINK, raw, libc::NETLINK_ROUTE), ALLOW);
        for protocol in 1..32 {
            assert_ne!(socket(libc::AF_NETLINK, raw, protocol), ALLOW);
        }
        // The kernel reads 32 bits: what stands above them hides nothing.
        let hidden = 1_i64 << 32 | i64::from(libc::AF_UNIX);
        assert_eq!(
            verdict(libc::SYS_socket, &[hidden, 1, 0]),
            error(libc::EAFNOSUPPORT)
        );
    }

    #[test]
    fn pairs_are_made_unless_they_could_send_to_a_path() {
        let pair = |family: i32, kind: i32| {
            verdict(libc::SYS_socketpair, &[i64::from(family), i64::from(kind)])
        };
        assert_eq!(pair(libc::AF_UNIX, libc::SOCK_STREAM), ALLOW);
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        assert_eq!(pair(libc::AF_UNIX, libc::SOCK_SEQPACKET | flags), ALLOW);
        for (family, kind) in [
            (libc::AF_UNIX, libc::SOCK_DGRAM),
            // The kernel makes a datagram socket of this one.
            (libc::AF_UNIX, libc::SOCK_RAW | flags),
            (libc::AF_TIPC, libc::SOCK_STREAM),
        ] {
            assert_eq!(pair(family, kind), error(libc::EOPNOTSUPP));
        }
    }

    #[test]
    fn namespaces_are_not_made_and_processes_are() {
        let thread = i64::from(libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND);
        assert_eq!(verdict(libc::SYS_clone, &[thread]), ALLOW);
        assert_eq!(verdict(libc::SYS_clone, &[i64::from(libc::SIGCHLD)]), ALLOW);
        let files = i64::from(libc::CLONE_FILES);
        assert_eq!(verdict(libc::SYS_unshare, &[files]), ALLOW);
        for flag in [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWNS,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWCGROUP,
        ] {
            for call in [libc::SYS_clone, libc::SYS_unshare] {
                let flags = i64::from(flag | libc::SIGCHLD);
                assert_eq!(verdict(call, &[flags]), error(libc::EPERM));
            }
        }
        assert_eq!(verdict(libc::SYS_unshare, &[0x80]), error(libc::EPERM));
        assert_eq!(verdict(libc::SYS_clone3, &[0]), error(libc::ENOSYS));
    }

    #[test]
    fn what_is_listed_is_refused_and_everyday_calls_pass() {
        for call in REFUSED {
            assert_eq!(verdict(*call, &[]), error(libc::EPERM), "{call}");
        }
        for call in ABSENT {
            assert_eq!(verdict(*call, &[]), error(libc::ENOSYS), "{call}");
        }
        for call in [
            libc::SYS_read,
            libc::SYS_openat,
            libc::SYS_execve,
            libc::SYS_connect,
            libc::SYS_sendmsg,
            libc::SYS_epoll_pwait,
            libc::SYS_futex,
            libc::SYS_seccomp,
        ] {
            assert_eq!(verdict(call, &[]), ALLOW, "{call}");
        }
        for after in [i64::from(LAST_KNOWN) + 1, 1000] {
            assert_eq!(verdict(after as libc::c_long, &[]), error(libc::ENOSYS));
        }
    }

    #[test]
    fn other_architectures_and_their_numbers_are_no_way_around() {
        let i386 = 0x4000_0003;
        assert_eq!(verdict_as(i386, libc::SYS_read, [0; 6]), KILL);
        let x32 = i64::from(X32) + libc::SYS_socket;
        assert_eq!(verdict(x32 as libc::c_long, &[1, 1]), error(libc::ENOSYS));
    }

    #[test]
    fn binding_to_an_interface_succeeds_and_does_nothing() {
        for option in [SO_BINDTODEVICE, SO_BINDTOIFINDEX] {
            let arguments = [3, i64::from(SOL_SOCKET), i64::from(option)];
            assert_eq!(verdict(libc::SYS_setsockopt, &arguments), error(0));
        }
        assert_eq!(verdict(libc::SYS_setsockopt, &[3, 1, 2]), ALLOW); // SO_REUSEADDR
        assert_eq!(verdict(libc::SYS_setsockopt, &[3, 6, 25]), ALLOW);
    }

    #[test]
    fn nothing_is_typed_into_the_terminal_outside() {
        for request in TERMINAL {
            let hidden = i64::from(request) | 1 << 40;
            for request in [i64::from(request), hidden] {
                assert_eq!(verdict(libc::SYS_ioctl, &[0, request]), error(libc::EPERM));
            }
        }
        assert_eq!(verdict(libc::SYS_ioctl, &[0, 0x5401]), ALLOW); // TCGETS
    }
}
