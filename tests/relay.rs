//! `hushswarm relay` as a process: what it refuses to start with, how it stops, and the relay list that it serves.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

#[path = "support/relays.rs"]
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use hushswarm::cli::network::{Fetched, refresh, renew_if_old};
use hushswarm::config::{NetworkFile, unix_now};
use hushswarm::overlay::client::BuildError;
use hushswarm::overlay::directory::{FetchError, fetch_list};
use hushswarm_circuits::keys::IdentityKey;
use hushswarm_circuits::path::ExitNeed;
use hushswarm_circuits::relay_list::{ListError, Proto, RelayList, Trust};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use world::{NETWORK, PROGRAM, Process, Recipe, World, echo, key, serve, sign, until};

const LONG: Duration = Duration::from_secs(60);

/// Runs a relay that is expected to refuse; gives its exit code and what it said.
fn refusal(mut command: Command) -> (i32, String) {
    let Output {
        status,
        stderr,
        stdout,
    } = command.output().unwrap();
    assert!(stdout.is_empty(), "it must not claim to listen");
    let said = String::from_utf8(stderr).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    (status.code().unwrap(), said)
}

fn assert_refused(world: &World, code: i32, words: &[&str]) {
    let (status, said) = refusal(world.command(0));
    assert_eq!(status, code, "{said}");
    for word in words.iter().chain(&["error: "]) {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
}

#[test]
fn an_expired_relay_list_is_refused() {
    let world = Recipe::new(1).build();
    let now = unix_now();
    world.write_list("relays.list", now - 1000, now - 10);
    assert_refused(&world, 3, &["relays.list is refused", "expired", "hint: "]);
}

#[test]
fn a_relay_list_of_the_future_is_refused() {
    let world = Recipe::new(1).build();
    let now = unix_now();
    world.write_list("relays.list", now + 3600, now + 7200);
    assert_refused(&world, 3, &["relays.list is refused", "not valid yet"]);
}

#[test]
fn a_forged_relay_list_is_refused() {
    let world = Recipe::new(1).build();
    let path = world.dir.path().join("relays.list");
    let mut bytes = fs::read(&path).unwrap();
    // The last byte of the only signature.
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_refused(&world, 3, &["relays.list is refused", "forged"]);
}

#[test]
fn a_relay_list_by_others_is_under_signed() {
    let mut world = Recipe::new(1).build();
    world.authority = IdentityKey::generate(&mut rand::rng());
    let now = unix_now();
    world.write_list("relays.list", now - 60, now + 3600);
    assert_refused(&world, 3, &["relays.list is refused", "signed by 0 of"]);
}

#[test]
fn a_relay_list_that_is_cut_or_missing_is_refused() {
    let world = Recipe::new(1).build();
    let path = world.dir.path().join("relays.list");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_refused(&world, 3, &["relays.list is refused"]);
    fs::remove_file(&path).unwrap();
    assert_refused(&world, 3, &["relays.list", "hint: "]);
}

#[test]
fn a_network_file_that_is_not_there_is_named() {
    let world = Recipe::new(1).build();
    fs::remove_file(&world.file).unwrap();
    assert_refused(&world, 3, &["no network file", "network.toml", "hint: "]);
}

#[test]
fn a_folder_without_keys_or_descriptor_is_refused_with_the_way_out() {
    let world = Recipe::new(1).build();
    fs::remove_file(world.relays[0].state.join("descriptor")).unwrap();
    assert_refused(&world, 1, &["holds no relay", "hint: make its keys first"]);
    fs::remove_file(world.relays[0].state.join("relay.keys")).unwrap();
    assert_refused(&world, 1, &["holds no relay", "hint: make its keys first"]);
}

#[test]
fn damaged_keys_and_descriptors_are_refused() {
    let world = Recipe::new(1).build();
    let state = &world.relays[0].state;
    fs::write(state.join("descriptor"), [7; 300]).unwrap();
    assert_refused(&world, 1, &["descriptor", "damaged"]);
    let keys = fs::read_to_string(state.join("relay.keys")).unwrap();
    fs::write(state.join("relay.keys"), &keys[..keys.len() - 20]).unwrap();
    assert_refused(&world, 6, &["relay.keys", "damaged", "hint: "]);
}

#[test]
fn folders_and_keys_that_others_can_read_are_refused() {
    let world = Recipe::new(1).build();
    let state = &world.relays[0].state;
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(state, 0o755);
    assert_refused(
        &world,
        6,
        &["other users may look into", "755", "hint: run: chmod 700"],
    );
    mode(state, 0o700);
    mode(&state.join("relay.keys"), 0o640);
    assert_refused(
        &world,
        6,
        &["other users may read", "640", "hint: run: chmod 600"],
    );
}

#[test]
fn a_port_or_folder_in_use_is_refused() {
    let mut world = Recipe::new(1).build();
    let taken = std::net::TcpListener::bind(world.relays[0].addr).unwrap();
    assert_refused(&world, 1, &["can't listen on", "is another relay running"]);
    drop(taken);
    world.start(0);
    assert_refused(
        &world,
        6,
        &["another hushswarm is using", "hint: stop it first"],
    );
}

#[test]
fn a_wrong_configuration_is_refused_with_its_line() {
    let world = Recipe::new(1).build();
    let path = world.relays[0].state.join("relay.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("bandwidth = ", "bandwith = ")).unwrap();
    assert_refused(&world, 1, &["relay.toml, line ", "bandwith"]);
}

#[test]
fn a_relay_that_the_list_does_not_have_says_so_and_runs() {
    let mut world = Recipe::new(2).build();
    world.descriptors.remove(0);
    let now = unix_now();
    world.write_list("relays.list", now - 30, now + 3600);
    world.start(0);
    let process = world.relays[0].process.take().unwrap();
    process.signal(Signal::TERM);
    let (status, log) = process.wait();
    assert!(status.success(), "{log}");
    assert!(log.contains("not in the relay list"), "{log}");
}

#[test]
fn a_signal_ends_an_idle_relay_at_once_and_well() {
    for signal in [Signal::TERM, Signal::INT] {
        let recipe = Recipe {
            args: vec!["--grace", "600"],
            ..Recipe::new(1)
        };
        let mut world = recipe.start();
        let process = world.relays[0].process.take().unwrap();
        process.signal(signal);
        let (status, log) = process.wait();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("stopping"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_told_to_stop_lets_a_stream_finish_and_takes_no_new_circuit() {
    let recipe = Recipe {
        args: vec!["--grace", "600"],
        ..Recipe::new(3)
    };
    let mut world = recipe.start();
    let client = world.client(3);
    let target = echo().await;
    let circuit = client
        .circuit(key("a"), Proto::Tcp, Some(&target), &[])
        .await
        .unwrap();
    let mut stream = circuit.connect(&target, LONG).await.unwrap();
    let exit = world.relays[2].process.take().unwrap();
    exit.signal(Signal::TERM);
    until("it stops", || exit.log().contains("stopping")).await;
    // New circuits are refused, at once and not by silence.
    let refused = timeout(
        Duration::from_secs(10),
        client.fresh_circuit(ExitNeed::Datagrams),
    );
    let refused = refused.await.unwrap().map(drop);
    assert_eq!(refused, Err(BuildError::Failed));
    // The stream goes on.
    let sent = world::pattern(3, 3_000_000);
    let (mut from, mut to) = tokio::io::split(&mut stream);
    let mut back = Vec::new();
    let (wrote, read) = tokio::join!(
        async {
            to.write_all(&sent).await?;
            to.shutdown().await
        },
        from.read_to_end(&mut back)
    );
    wrote.unwrap();
    read.unwrap();
    assert!(back == sent);
    // When the circuit is gone, so is the relay, long before the grace is over.
    drop(stream);
    circuit.close();
    let (status, log) = tokio::task::spawn_blocking(|| exit.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_grace_is_over_or_at_a_second_signal_what_is_left_breaks() {
    for (grace, signals) in [("1", 1), ("600", 2)] {
        let recipe = Recipe {
            args: vec!["--grace", grace],
            ..Recipe::new(3)
        };
        let mut world = recipe.start();
        let client = world.client(3);
        let target = echo().await;
        let circuit = client
            .circuit(key("a"), Proto::Tcp, Some(&target), &[])
            .await
            .unwrap();
        let mut stream = circuit.connect(&target, LONG).await.unwrap();
        let exit = world.relays[2].process.take().unwrap();
        exit.signal(Signal::TERM);
        until("it stops", || exit.log().contains("stopping")).await;
        if signals == 2 {
            exit.signal(Signal::INT);
        }
        let (status, log) = tokio::task::spawn_blocking(|| exit.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{log}");
        let read = timeout(LONG, stream.read(&mut [0; 16])).await.unwrap();
        assert!(read.is_err(), "{read:?}");
    }
}

fn trust(world: &World) -> Trust {
    Trust {
        network: NETWORK.to_owned(),
        authorities: vec![world.authority.public()],
        threshold: 1,
    }
}

/// Waits until a relay has taken the list that lies in its file now.
async fn hang_up(process: &Process) {
    let taken = |log: String| log.matches("took a newer relay list").count();
    let before = taken(process.log());
    process.signal(Signal::HUP);
    until("the list is taken", || taken(process.log()) > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_list_comes_over_a_circuit_as_it_is_in_the_file() {
    let world = Recipe::new(3).start();
    let client = world.client(3);
    let circuit = client.directory_circuit().await.unwrap();
    let mut served = Vec::new();
    let mut stream = circuit.relay_list(LONG).await.unwrap();
    stream.read_to_end(&mut served).await.unwrap();
    assert!(served == fs::read(world.dir.path().join("relays.list")).unwrap());
    let list = fetch_list(&client, &trust(&world), unix_now())
        .await
        .unwrap();
    assert_eq!(list.bytes(), world.list.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_list_is_taken_by_relays_and_fetched_by_clients() {
    let world = Recipe::new(3).start();
    // The client has a folder of its own, with the list of the beginning.
    let own = world.dir.path().join("own");
    fs::create_dir(&own).unwrap();
    for name in ["network.toml", "relays.list"] {
        fs::copy(world.dir.path().join(name), own.join(name)).unwrap();
    }
    let fetch = || {
        let mut command = Command::new(PROGRAM);
        command
            .args(["network", "fetch"])
            .arg(own.join("network.toml"))
            .arg("--state")
            .arg(own.join("state"));
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let Output {
        status,
        stdout,
        stderr,
    } = fetch().await.unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let said = String::from_utf8(stdout).unwrap();
    assert!(said.contains("is the newest that the relay has"), "{said}");

    let now = unix_now();
    let newer = world.write_list("relays.list", now - 30, now + 86_400);
    for n in 0..3 {
        hang_up(world.process(n)).await;
    }
    let Output {
        status,
        stdout,
        stderr,
    } = fetch().await.unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let said = String::from_utf8(stdout).unwrap();
    assert!(said.contains("a newer relay list"), "{said}");
    assert!(fs::read(own.join("relays.list")).unwrap() == newer);
    assert!(
        own.join("state")
            .join(format!("guards-{NETWORK}.toml"))
            .exists()
    );

    // An older one is not taken back, by relays or clients.
    let older = world.write_list("relays.list", now - 50, now + 86_400);
    let network = NetworkFile::load_file(&own.join("network.toml")).unwrap();
    let held = RelayList::decode_verified(&newer, &trust(&world), now).unwrap();
    world.process(0).signal(Signal::HUP);
    let client = world.client(3);
    client.set_list(Arc::new(held));
    let fetched = refresh(&network, &client).await.unwrap();
    assert!(matches!(fetched, Fetched::Current));
    assert!(fs::read(own.join("relays.list")).unwrap() == newer && newer != older);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_client_renews_its_list_when_a_third_of_its_life_is_left_or_the_file_is_newer() {
    let world = Recipe::new(3).start();
    let now = unix_now();
    let own = world.dir.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::copy(&world.file, own.join("network.toml")).unwrap();
    let network = NetworkFile::load_file(&own.join("network.toml")).unwrap();
    let held = |from, until| {
        let bytes = sign(&world.authority, &world.descriptors, from, until);
        let list = RelayList::decode_verified(&bytes, &trust(&world), now).unwrap();
        fs::write(own.join("relays.list"), &bytes).unwrap();
        Arc::new(list)
    };
    let client = world.client(3);
    let newest = world.write_list("relays.list", now - 30, now + 86_400);
    for n in 0..3 {
        hang_up(world.process(n)).await;
    }

    // 40 % are left: nobody is asked.
    let young = held(now - 6000, now + 4000);
    client.set_list(Arc::clone(&young));
    renew_if_old(&network, &client).await;
    assert_eq!(client.list().bytes(), young.bytes());
    assert_eq!(client.circuits(), 0);

    // 30 % are left.
    client.set_list(held(now - 7000, now + 3000));
    renew_if_old(&network, &client).await;
    assert!(client.list().bytes()[..] == newest[..]);
    assert!(fs::read(own.join("relays.list")).unwrap() == newest);

    // Somebody has put a newer one there.
    let newer = held(now - 20, now + 86_400);
    renew_if_old(&network, &client).await;
    assert_eq!(client.list().bytes(), newer.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_not_signed_as_the_network_file_says_is_not_taken() {
    let world = Recipe::new(3).start();
    let client = world.client(3);
    let other = Trust {
        authorities: vec![IdentityKey::generate(&mut rand::rng()).public()],
        ..trust(&world)
    };
    let refused = fetch_list(&client, &other, unix_now()).await.unwrap_err();
    assert!(
        matches!(refused, FetchError::Refused(ListError::UnderSigned { .. })),
        "{refused:?}"
    );
    let late = fetch_list(&client, &trust(&world), unix_now() + 1_000_000)
        .await
        .unwrap_err();
    assert!(
        matches!(late, FetchError::Refused(ListError::Expired { .. })),
        "{late:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fetching_from_a_network_that_is_down_says_so() {
    let world = Recipe::new(3).build();
    let before = fs::read(world.dir.path().join("relays.list")).unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .args(["network", "fetch"])
        .arg(&world.file)
        .arg("--state")
        .arg(world.dir.path().join("state"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(
        said.contains("the relay list could not be fetched"),
        "{said}"
    );
    assert!(said.contains("hint: "), "{said}");
    assert!(fs::read(world.dir.path().join("relays.list")).unwrap() == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_in_the_middle_that_stops_leaves_circuits_alone_until_its_grace_is_over() {
    let recipe = Recipe {
        args: vec!["--grace", "600"],
        guards: 1,
        ..Recipe::new(4)
    };
    let mut world = recipe.start();
    let client = world.client(3);
    let target = serve(|mut stream| async move {
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            let _ = stream.write_all(&byte).await;
        }
    })
    .await;
    let circuit = client
        .circuit(key("a"), Proto::Tcp, Some(&target), &[])
        .await
        .unwrap();
    let mut stream = circuit.connect(&target, LONG).await.unwrap();
    let middle = world.place(&circuit.path()[1].identity);
    let process = world.relays[middle].process.take().unwrap();
    process.signal(Signal::TERM);
    until("it stops", || process.log().contains("stopping")).await;
    // The next circuits go through the other middle.
    for owner in ["b", "c", "d"] {
        let other = client
            .circuit(key(owner), Proto::Tcp, Some(&target), &[])
            .await
            .unwrap();
        assert_ne!(world.place(&other.path()[1].identity), middle);
    }
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    drop(stream);
    circuit.close();
    let (status, _) = tokio::task::spawn_blocking(|| process.wait())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0));
}
