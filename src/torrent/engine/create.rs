//! Making a torrent of files on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::torrent::metainfo::{Builder, MAX_FILES, Metainfo, MetainfoError, Version};
use crate::torrent::storage::{StorageError, hash_files};
use crate::torrent::swarm::threads;

/// Deepest folder that is looked into, against loops of mounts.
const MAX_DEPTH: usize = 64;

/// A torrent that was made.
#[derive(Clone, Debug)]
pub struct Created {
    /// The torrent.
    pub metainfo: Metainfo,
    /// Its torrent file.
    pub file: Vec<u8>,
    /// The folder that holds its content: for [`super::Engine::seed`].
    pub folder: PathBuf,
}

/// Why no torrent could be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The path has no name, such as `/` or `..`.
    #[error("the path has no name of its own")]
    NoName,
    /// A name that is not UTF-8.
    #[error("a file name is not UTF-8")]
    NotUtf8,
    /// Too many files, or folders too deep.
    #[error("there are more than {MAX_FILES} files, or folders are nested deeper than {MAX_DEPTH}")]
    TooMany,
    /// Neither a file nor a folder.
    #[error("not a file or folder")]
    NotAFile,
    /// A file can't be read.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// The result would not be a usable torrent.
    #[error("{0}")]
    Metainfo(#[from] MetainfoError),
}

/// Makes a torrent of a file or of a folder with all files in it. Links are left out. Hashes on all processors;
/// `hashed` counts pieces.
///
/// # Errors
/// Tell the user.
pub async fn create(
    path: PathBuf,
    trackers: Vec<Vec<String>>,
    hashed: Arc<AtomicU32>,
) -> Result<Created, CreateError> {
    create_as(path, trackers, Version::V1, hashed).await
}

/// The same for these versions.
///
/// # Errors
/// Tell the user.
pub async fn create_as(
    path: PathBuf,
    trackers: Vec<Vec<String>>,
    version: Version,
    hashed: Arc<AtomicU32>,
) -> Result<Created, CreateError> {
    let recipe = Recipe {
        trackers,
        version,
        ..Recipe::default()
    };
    create_with(path, recipe, hashed).await
}

/// What goes into a torrent besides its files.
#[derive(Clone, Default)]
pub struct Recipe {
    /// Tracker URLs in tiers (BEP 12).
    pub trackers: Vec<Vec<String>>,
    /// URLs of servers that have the content (BEP 19).
    pub web_seeds: Vec<String>,
    /// For which versions of the protocol.
    pub version: Version,
}

impl std::fmt::Debug for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recipe")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// The same with all that can be in a torrent.
///
/// # Errors
/// Tell the user.
pub async fn create_with(
    path: PathBuf,
    recipe: Recipe,
    hashed: Arc<AtomicU32>,
) -> Result<Created, CreateError> {
    let work = move || create_from(&path, recipe, None, &hashed);
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // It panicked, or the runtime ends.
        Err(_) => Err(CreateError::Storage(StorageError::Io(
            std::io::ErrorKind::Other,
        ))),
    }
}

#[cfg(test)]
pub(super) fn create_blocking(
    path: &Path,
    trackers: Vec<Vec<String>>,
    version: Version,
    piece_len: Option<u32>,
    hashed: &AtomicU32,
) -> Result<Created, CreateError> {
    let recipe = Recipe {
        trackers,
        version,
        ..Recipe::default()
    };
    create_from(path, recipe, piece_len, hashed)
}

fn create_from(
    path: &Path,
    recipe: Recipe,
    piece_len: Option<u32>,
    hashed: &AtomicU32,
) -> Result<Created, CreateError> {
    let version = recipe.version;
    let io = |e: std::io::Error| CreateError::Storage(StorageError::from_io(&e));
    // The path itself may be a link: the user named it. Its target gives the name.
    let path = path.canonicalize().map_err(io)?;
    let name = path.file_name().ok_or(CreateError::NoName)?;
    let name = name.to_str().ok_or(CreateError::NotUtf8)?.to_owned();
    let folder = path.parent().ok_or(CreateError::NoName)?.to_owned();
    let meta = path.metadata().map_err(io)?;
    let mut files = Vec::new();
    if meta.is_file() {
        files.push((Vec::new(), meta.len()));
    } else if meta.is_dir() {
        walk(&path, &mut Vec::new(), &mut files)?;
    } else {
        return Err(CreateError::NotAFile);
    }
    let mut builder = Builder::new(name, files).for_version(version);
    builder.trackers = recipe.trackers;
    builder.web_seeds = recipe.web_seeds;
    if let Some(len) = piece_len {
        builder.piece_len = len;
    }
    let hashes = hash_files(&folder, &builder, threads(), hashed)?;
    // Of one file in a folder, version 2 alone says nothing of the folder.
    let in_folder = matches!(&builder.files[..], [(below, _)] if below.len() == 1);
    let folder = if version == Version::V2 && in_folder {
        path
    } else {
        folder
    };
    let (metainfo, file) = builder.finish_with(hashes)?;
    Ok(Created {
        metainfo,
        file,
        folder,
    })
}

fn walk(
    dir: &Path,
    below: &mut Vec<String>,
    files: &mut Vec<(Vec<String>, u64)>,
) -> Result<(), CreateError> {
    let io = |e: std::io::Error| CreateError::Storage(StorageError::from_io(&e));
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let kind = entry.file_type().map_err(io)?;
        let name = entry
            .file_name()
            .into_string()
            .map_err(|_| CreateError::NotUtf8)?;
        if files.len() >= MAX_FILES || below.len() >= MAX_DEPTH {
            return Err(CreateError::TooMany);
        }
        below.push(name);
        if kind.is_dir() {
            walk(&entry.path(), below, files)?;
        } else if kind.is_file() {
            files.push((below.clone(), entry.metadata().map_err(io)?.len()));
        }
        below.pop();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
