//! A VMDK that nobody wrote: `monolithicSparse`, or a descriptor that leads to a raw file beside it.
//!
//! ```text
//!   monolithicSparse   [header][descriptor][redundant directory, tables][directory, tables] pad [grain 0][grain 1] …
//!   monolithicFlat     [descriptor]                          the extent is the raw file
//! ```
//!
//! Grain tables tell places in 32 bits of sectors. As every grain has its place, the file is as long as the disk and its
//! tables, and the largest that fits is a little below 2 TiB.

use super::create::{ContentName, Recipe, describe};
use super::format::descriptor::{CreateType, ExtentAccess, ExtentKind, ExtentLine};
use super::format::header::Directory;
use super::format::tables::{
    DESCRIPTOR_SECTORS, GRAIN_SECTORS, consecutive_tables, encode_directory, new_header,
};
use super::format::{MAX_SPARSE_SECTORS, SECTOR_BYTES};
use super::identity::DiskUuid;
use crate::synthetic::{self, Entries, Layout, Table, Units};

/// The layout of a VMDK of the disk; why there is none.
pub(crate) fn synthetic(recipe: &synthetic::Recipe) -> Result<Layout, String> {
    let size = recipe.size_bytes;
    if size == 0 || !size.is_multiple_of(SECTOR_BYTES) {
        return Err("it has whole sectors of 512 bytes, at least one".to_owned());
    }
    let sectors = size / SECTOR_BYTES;
    if sectors <= MAX_SPARSE_SECTORS {
        let header = new_header(sectors, false);
        if header.overhead + header.grains() * GRAIN_SECTORS <= MAX_SPARSE_SECTORS {
            return sparse(recipe);
        }
    }
    flat(recipe)
}

fn text(recipe: &synthetic::Recipe, kind: CreateType, extent: ExtentKind, file: &str) -> String {
    let uuid = Some(DiskUuid::from_seed(recipe.disk_id));
    let line = ExtentLine {
        access: ExtentAccess::ReadWrite,
        sectors: recipe.size_bytes / SECTOR_BYTES,
        kind: extent,
        file: file.to_owned(),
        start: 0,
        rest: String::new(),
    };
    let wanted = Recipe { uuid, ..Recipe::new(kind, recipe.size_bytes) };
    describe(&wanted, ContentName::of(recipe.content_id), &[line])
}

fn sparse(recipe: &synthetic::Recipe) -> Result<Layout, String> {
    let sectors = recipe.size_bytes / SECTOR_BYTES;
    let text = text(recipe, CreateType::MonolithicSparse, ExtentKind::Sparse, &recipe.file_name);
    if text.len() as u64 > DESCRIPTOR_SECTORS * SECTOR_BYTES {
        return Err("its name is too long for a descriptor".to_owned());
    }
    let header = new_header(sectors, false);
    let mut fixed = vec![(0, header.encode().to_vec()), (SECTOR_BYTES, text.into_bytes())];
    let mut tables = Vec::new();
    let primary = match header.directory {
        Directory::At(sector) => Some(sector),
        Directory::InFooter => None,
    };
    for start in [header.redundant_directory, primary].into_iter().flatten() {
        let first = start + header.directory_sectors();
        let directory = consecutive_tables(&header, first);
        let bytes = encode_directory(&directory, header.directory_sectors());
        fixed.push((start * SECTOR_BYTES, bytes));
        let count = header.tables() * u64::from(header.table_entries);
        tables.push(Table { at: first * SECTOR_BYTES, count, entries: Entries::Grains });
    }
    let bytes = GRAIN_SECTORS * SECTOR_BYTES;
    let start = header.overhead * SECTOR_BYTES;
    let units = Units { start, bytes, bitmap_bytes: 0, stride: bytes };
    let length = units.end(header.grains());
    let disk_bytes = recipe.size_bytes;
    Ok(Layout { disk_bytes, length, fixed, tables, units: Some(units) }.checked())
}

fn flat(recipe: &synthetic::Recipe) -> Result<Layout, String> {
    let mut bytes =
        text(recipe, CreateType::MonolithicFlat, ExtentKind::Flat, &recipe.raw_name).into_bytes();
    // Whole sectors, as readers take them.
    while !(bytes.len() as u64).is_multiple_of(SECTOR_BYTES) {
        bytes.push(b'\n');
    }
    let (disk_bytes, length) = (recipe.size_bytes, bytes.len() as u64);
    let fixed = vec![(0, bytes)];
    Ok(Layout { disk_bytes, length, fixed, tables: Vec::new(), units: None }.checked())
}
