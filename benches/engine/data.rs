//! What is carried: a file of noise, and its torrent.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hushswarm::torrent::engine::create;

/// A file and its torrent.
pub(crate) struct Made {
    pub(crate) folder: PathBuf,
    pub(crate) torrent: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) piece_len: u32,
}

impl Made {
    /// Where it lies, and is given from.
    pub(crate) fn source(&self) -> PathBuf {
        self.folder.join("source")
    }

    /// Whether what lies in `copy` is the same.
    pub(crate) fn is_in(&self, copy: &Path) -> bool {
        let mut compare = std::process::Command::new("cmp");
        compare
            .arg(self.source().join("noise"))
            .arg(copy.join("noise"));
        compare.status().unwrap().success()
    }
}

/// Makes a file of this length, and the torrent that the engine makes of it.
pub(crate) fn make(folder: &Path, bytes: u64) -> Made {
    let source = folder.join("source");
    std::fs::create_dir(&source).unwrap();
    let mut file = std::fs::File::create(source.join("noise")).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut left = bytes;
    let mut chunk = vec![0; 1 << 20];
    while left > 0 {
        for word in chunk.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let len = left.min(chunk.len() as u64);
        file.write_all(&chunk[..len as usize]).unwrap();
        left -= len;
    }
    drop(file);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let created = runtime
        .block_on(create(source.join("noise"), Vec::new(), Arc::default()))
        .unwrap();
    let torrent = folder.join("noise.torrent");
    std::fs::write(&torrent, &created.file).unwrap();
    Made {
        folder: folder.to_owned(),
        torrent,
        bytes,
        piece_len: created.metainfo.info.piece_len,
    }
}
