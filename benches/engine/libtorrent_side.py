"""libtorrent as one end of a transfer on loopback: `give|take TORRENT FOLDER`.

Its settings are its own, but for discovery, which is off, and for encryption, which the other end does not speak."""

import sys

import libtorrent as lt


def main():
    role, torrent, folder = sys.argv[1:4]
    session = lt.session({
        "listen_interfaces": "127.0.0.1:0", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
        "enable_natpmp": False, "enable_incoming_utp": False, "enable_outgoing_utp": False,
        "in_enc_policy": 2, "out_enc_policy": 2,
        "alert_mask": lt.alert_category.status | lt.alert_category.error,
    })
    params = lt.load_torrent_file(torrent)
    params.save_path = folder
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if role == "give":
        params.flags |= lt.torrent_flags.seed_mode
    handle = session.add_torrent(params)
    wait(session, "torrent_checked", lambda: role == "give" and handle.status().is_seeding)
    print("port", session.listen_port(), flush=True)
    if role == "take":
        handle.connect_peer(("127.0.0.1", int(sys.stdin.readline())))
        wait(session, "torrent_finished", lambda: False)
        # What is not written yet.
        handle.flush_cache()
        wait(session, "cache_flushed", lambda: False)
        print("done", flush=True)
    sys.stdin.read()


def wait(session, what, already):
    while not already():
        session.wait_for_alert(10000)
        for alert in session.pop_alerts():
            if "error" in alert.what() or "failed" in alert.what():
                print(alert.message(), file=sys.stderr)
            if alert.what() == what:
                return


main()
