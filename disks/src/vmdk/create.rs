//! New disks: extents first, then the descriptor that makes a disk of them.
//!
//! ```text
//!   monolithicSparse       os.vmdk
//!   monolithicFlat, vmfs   os.vmdk  os-flat.vmdk
//!   twoGbMaxExtentSparse   os.vmdk  os-s001.vmdk  os-s002.vmdk ...
//!   twoGbMaxExtentFlat     os.vmdk  os-f001.vmdk  os-f002.vmdk ...
//! ```
//!
//! Every file gets its name when it is whole, the descriptor last: a crash leaves no disk, or all of it.

use super::format::descriptor::{
    ContentId, CreateType, ExtentAccess, ExtentKind, ExtentLine, MAX_DESCRIPTOR_BYTES, MAX_EXTENTS,
};
use super::format::header::Directory;
use super::format::tables::{consecutive_tables, encode_directory, new_header};
use super::format::{MAX_SPARSE_SECTORS, SECTOR_BYTES};
use super::identity::{DiskUuid, fresh_number};
use super::sparse::FULL;
use crate::block::{ByteOffset, MAX_DISK_SIZE};
use crate::file::Folder;
use crate::image::{ImageError, ImageFile, Location};
use crate::uring::buffer::Buffer;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Sectors of an extent of the `twoGb` kinds: 2047 MiB, so that the file with its tables stays below 2 GiB, as VMware has it.
pub(super) const SPLIT_SECTORS: u64 = 4_192_256;

/// The controller that a disk is made for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Adapter {
    /// Parallel or SAS controllers of LSI Logic.
    #[default]
    LsiLogic,
    /// VMware's own controller.
    PvScsi,
    /// IDE.
    Ide,
}

impl Adapter {
    /// As it stands in a descriptor.
    pub fn name(self) -> &'static str {
        match self {
            Self::LsiLogic => "lsilogic",
            Self::PvScsi => "pvscsi",
            Self::Ide => "ide",
        }
    }

    /// Cylinders, heads and sectors of a disk of `sectors`, by the table of the specification.
    fn geometry(self, sectors: u64) -> (u64, u64, u64) {
        const GIB: u64 = (1 << 30) / SECTOR_BYTES;
        let (heads, per_track, most) = match self {
            Self::Ide => (16, 63, 16_383),
            _ if sectors <= GIB => (64, 32, 65_535),
            _ if sectors <= 2 * GIB => (128, 32, 65_535),
            _ => (255, 63, 65_535),
        };
        ((sectors / (heads * per_track)).clamp(1, most), heads, per_track)
    }
}

/// What a new disk stands on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParentLink {
    /// Its name, as the child is to have it.
    pub hint: String,
    /// Its CID.
    pub cid: String,
}

/// What a new disk is to be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipe {
    /// Its kind: `monolithicSparse`, `monolithicFlat`, `twoGbMaxExtentSparse`, `twoGbMaxExtentFlat` or `vmfs`.
    pub kind: CreateType,
    /// Its size, in whole sectors.
    pub size_bytes: u64,
    /// The controller it is for.
    pub adapter: Adapter,
    /// The identity that guests see; a new one if there is none.
    pub uuid: Option<DiskUuid>,
    /// `ddb.virtualHWVersion`.
    pub hardware_version: u32,
    /// `ddb.toolsVersion`.
    pub tools_version: u32,
    /// Whether sparse extents can say that a grain is zeroes without space for it (version 2). Matters with a parent only.
    pub zeroed_grains: bool,
    /// What it reads where it has nothing; of sparse kinds only.
    pub parent: Option<ParentLink>,
}

impl Recipe {
    /// A disk of a kind and a size, and what is usual for the rest.
    pub fn new(kind: CreateType, size_bytes: u64) -> Self {
        // Disks on VMFS come from hosts of today; what Workstation makes must open in older versions.
        let hardware_version = if kind == CreateType::Vmfs { 8 } else { 4 };
        Self {
            kind,
            size_bytes,
            adapter: Adapter::default(),
            uuid: None,
            hardware_version,
            tools_version: u32::MAX >> 1,
            zeroed_grains: false,
            parent: None,
        }
    }
}

/// Where a file beside the descriptor is.
pub(super) fn beside(location: &Location, name: &str) -> PathBuf {
    location.path.parent().unwrap_or(Path::new("")).join(name)
}

/// The name after `name`: `os-s003.vmdk` after `os-s002.vmdk`.
pub(super) fn next_name(name: &str) -> Option<String> {
    let (stem, extension) = name.rsplit_once('.')?;
    let digits = stem.len() - stem.trim_end_matches(|one: char| one.is_ascii_digit()).len();
    let (before, number) = stem.split_at(stem.len() - digits);
    let next = number.parse::<u64>().ok()?.checked_add(1)?;
    Some(format!("{before}{next:0digits$}.{extension}"))
}

/// Makes the disk `recipe` says. It is durable, and closed.
pub async fn create(location: &Location, recipe: &Recipe) -> Result<(), ImageError> {
    let refuse = |why: &str| Err(ImageError::cannot_create(location.display(), why));
    let size = recipe.size_bytes;
    if size == 0 || size > MAX_DISK_SIZE || !size.is_multiple_of(SECTOR_BYTES) {
        return refuse("its size must be whole sectors of 512 bytes, at most 64 TiB");
    }
    let stem = location.path.file_stem().and_then(|stem| stem.to_str());
    let Some(stem) = stem.filter(|stem| !stem.contains(['"', '\n', '\r', '\0'])) else {
        return refuse("its name must be text without quotes and line ends");
    };
    let own = location.path.file_name().and_then(|name| name.to_str()).unwrap_or(stem);
    let lines = match plan(recipe, stem, own) {
        Ok(lines) => lines,
        Err(why) => return refuse(&why),
    };
    let text = describe(recipe, ContentName::fresh(), &lines);
    let folder = &*location.folder;
    if recipe.kind == CreateType::MonolithicSparse {
        let file = extent_file(folder, &location.path, &lines[0], Some(recipe.zeroed_grains));
        let file = file.await?;
        file.write(ByteOffset::new(SECTOR_BYTES), Buffer::copy_of(text.as_bytes())).await?;
        return Ok(file.publish(folder, &location.path).await?);
    }
    let file = ImageFile::create(folder, &location.path, text.len() as u64).await?;
    file.write(ByteOffset::new(0), Buffer::copy_of(text.as_bytes())).await?;
    for line in &lines {
        let path = beside(location, &line.file);
        let extent = extent_file(folder, &path, line, None).await?;
        extent.publish(folder, &path).await?;
    }
    Ok(file.publish(folder, &location.path).await?)
}

/// What a descriptor calls the content of its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ContentName {
    /// `CID`.
    cid: ContentId,
    /// What stands before it in `ddb.longContentID`: 64 bits of the first number, 32 of the second.
    long: [u64; 2],
}

impl ContentName {
    /// The name that follows from `seed`: the same for the same seed.
    pub(super) fn of(seed: [u8; 16]) -> Self {
        let number = u128::from_be_bytes(seed);
        let low = u32::try_from(number & 0xffff_ffff).expect("32 bits");
        // Three values have meanings of their own.
        let cid = if low == 0 || !ContentId::new(low).is_distinct() { 1 } else { low };
        let [first, second] = [number >> 64, number & u128::from(u64::MAX)];
        let long = [first, second].map(|half| u64::try_from(half).expect("64 bits"));
        Self { cid: ContentId::new(cid), long }
    }

    /// One that was most probably never used before.
    pub(super) fn fresh() -> Self {
        let [first, second] = [fresh_number(), fresh_number()].map(u128::from);
        Self::of((first << 64 | second).to_be_bytes())
    }
}

/// The extents of a new disk.
fn plan(recipe: &Recipe, stem: &str, own: &str) -> Result<Vec<ExtentLine>, String> {
    let sectors = recipe.size_bytes / SECTOR_BYTES;
    let line = |kind: ExtentKind, sectors: u64, file: String| ExtentLine {
        access: ExtentAccess::ReadWrite,
        sectors,
        kind,
        file,
        start: 0,
        rest: String::new(),
    };
    let split = |kind: ExtentKind, letter: char| {
        let count = sectors.div_ceil(SPLIT_SECTORS);
        if count > MAX_EXTENTS as u64 {
            return Err(format!("it would have {count} extents; there may be {MAX_EXTENTS}"));
        }
        let one = |number: u64| {
            let sectors = (sectors - number * SPLIT_SECTORS).min(SPLIT_SECTORS);
            line(kind.clone(), sectors, format!("{stem}-{letter}{:03}.vmdk", number + 1))
        };
        Ok((0..count).map(one).collect())
    };
    let sparse =
        matches!(recipe.kind, CreateType::MonolithicSparse | CreateType::TwoGbMaxExtentSparse);
    if recipe.parent.is_some() && !sparse {
        return Err("only sparse kinds can have a parent".to_owned());
    }
    if recipe.parent.as_ref().is_some_and(|parent| {
        parent.hint.contains(['"', '\n', '\r', '\0'])
            || parent.cid.len() != 8
            || !parent.cid.bytes().all(|byte| byte.is_ascii_hexdigit())
    }) {
        return Err("its parent needs a name without quotes, and a CID of 8 digits".to_owned());
    }
    match &recipe.kind {
        CreateType::MonolithicSparse if sectors > MAX_SPARSE_SECTORS => Err(FULL.to_owned()),
        CreateType::MonolithicSparse => Ok(vec![line(ExtentKind::Sparse, sectors, own.to_owned())]),
        CreateType::MonolithicFlat => {
            Ok(vec![line(ExtentKind::Flat, sectors, format!("{stem}-flat.vmdk"))])
        }
        CreateType::Vmfs => Ok(vec![line(ExtentKind::Vmfs, sectors, format!("{stem}-flat.vmdk"))]),
        CreateType::TwoGbMaxExtentSparse => split(ExtentKind::Sparse, 's'),
        CreateType::TwoGbMaxExtentFlat => split(ExtentKind::Flat, 'f'),
        CreateType::StreamOptimized => {
            Err("a streamOptimized disk is written as an export".to_owned())
        }
        other => Err(format!("disks of the kind {} are not made here", other.name())),
    }
}

/// The text of a descriptor.
pub(super) fn describe(recipe: &Recipe, content: ContentName, lines: &[ExtentLine]) -> String {
    let ContentName { cid, long } = content;
    let sectors = recipe.size_bytes / SECTOR_BYTES;
    let (cylinders, heads, per_track) = recipe.adapter.geometry(sectors);
    let uuid = recipe.uuid.unwrap_or_else(DiskUuid::random);
    let parent = recipe.parent.as_ref();
    let parent_cid = parent.map_or("ffffffff", |parent| parent.cid.as_str());
    let hint =
        parent.map_or(String::new(), |parent| format!("parentFileNameHint=\"{}\"\n", parent.hint));
    let mut text = format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={cid}\nparentCID={parent_cid}\n\
         createType=\"{}\"\n{hint}\n# Extent description\n",
        recipe.kind.name()
    );
    for line in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    }
    let _ = write!(
        text,
        "\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"{}\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{per_track}\"\nddb.longContentID = \"{:016x}{:08x}{cid}\"\n\
         ddb.toolsVersion = \"{}\"\nddb.uuid = \"{uuid}\"\nddb.virtualHWVersion = \"{}\"\n",
        recipe.adapter.name(),
        long[0],
        long[1] >> 32,
        recipe.tools_version,
        recipe.hardware_version
    );
    assert!(text.len() <= MAX_DESCRIPTOR_BYTES, "a descriptor of {} bytes", text.len());
    text
}

/// Makes the file of an extent; it has no name yet. `embedded` is given when it is to hold the descriptor, too, and says whether
/// it has zeroed grains.
pub(super) async fn extent_file(
    folder: &dyn Folder,
    path: &Path,
    line: &ExtentLine,
    embedded: Option<bool>,
) -> Result<ImageFile, ImageError> {
    if line.kind != ExtentKind::Sparse {
        return Ok(ImageFile::create(folder, path, line.sectors * SECTOR_BYTES).await?);
    }
    let mut header = new_header(line.sectors, embedded.unwrap_or(false));
    if embedded.is_none() {
        header.descriptor = None;
    }
    let file = ImageFile::create(folder, path, header.overhead * SECTOR_BYTES).await?;
    let put = async |sector: u64, bytes: &[u8]| {
        file.write(ByteOffset::new(sector * SECTOR_BYTES), Buffer::copy_of(bytes)).await
    };
    let sectors = header.directory_sectors();
    let primary = match header.directory {
        Directory::At(sector) => Some(sector),
        Directory::InFooter => None,
    };
    for start in [primary, header.redundant_directory].into_iter().flatten() {
        let tables = consecutive_tables(&header, start + sectors);
        put(start, &encode_directory(&tables, sectors)).await?;
    }
    put(0, &header.encode()).await?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmdk::format::descriptor::Descriptor;

    #[test]
    fn names_are_counted_on() {
        assert_eq!(next_name("os-s001.vmdk").as_deref(), Some("os-s002.vmdk"));
        assert_eq!(next_name("os-f999.vmdk").as_deref(), Some("os-f1000.vmdk"));
        assert_eq!(next_name("os-flat.vmdk"), None);
        assert_eq!(next_name("7"), None);
    }

    #[test]
    fn geometry_is_that_of_the_specification() {
        let sectors = |gib: u64| gib << 21;
        assert_eq!(Adapter::Ide.geometry(sectors(1)), (2080, 16, 63));
        assert_eq!(Adapter::Ide.geometry(sectors(100)), (16_383, 16, 63));
        assert_eq!(Adapter::LsiLogic.geometry(sectors(1)), (1024, 64, 32));
        assert_eq!(Adapter::LsiLogic.geometry(sectors(2)), (1024, 128, 32));
        assert_eq!(Adapter::PvScsi.geometry(sectors(40)), (5221, 255, 63));
        assert_eq!(Adapter::LsiLogic.geometry(1), (1, 64, 32));
    }

    #[test]
    fn a_new_descriptor_says_what_the_recipe_says() {
        let uuid = DiskUuid::from_seed([7; 16]);
        let mut recipe = Recipe::new(CreateType::TwoGbMaxExtentSparse, 5 << 30);
        recipe.uuid = Some(uuid);
        recipe.adapter = Adapter::PvScsi;
        recipe.parent = Some(ParentLink { hint: "base.vmdk".into(), cid: "12345678".into() });
        let lines = plan(&recipe, "os", "os.vmdk").expect("possible");
        let text = describe(&recipe, ContentName::of(0xabc_u128.to_be_bytes()), &lines);
        let parsed = Descriptor::parse(text.as_bytes(), 0).expect("sound");
        assert_eq!(parsed.cid(), ContentId::new(0xabc));
        assert_eq!(parsed.parent_cid(), ContentId::new(0x1234_5678));
        assert_eq!(parsed.parent_hint(), Some("base.vmdk"));
        assert_eq!(parsed.sectors(), (5 << 30) / 512);
        let files: Vec<&str> = parsed.extents().map(|extent| extent.file.as_str()).collect();
        assert_eq!(files, ["os-s001.vmdk", "os-s002.vmdk", "os-s003.vmdk"]);
        assert_eq!(parsed.setting("ddb.uuid"), Some(uuid.to_string().as_str()));
        assert_eq!(parsed.setting("ddb.adapterType"), Some("pvscsi"));
        let long = parsed.setting("ddb.longContentID").expect("there is one");
        assert!(long.len() == 32 && long.ends_with("00000abc"), "{long}");
    }

    #[test]
    fn what_the_format_cannot_hold_is_refused_with_the_reason() {
        let why =
            |kind, size| plan(&Recipe::new(kind, size), "os", "os.vmdk").expect_err("refused");
        let found = why(CreateType::MonolithicSparse, (2 << 40) + 512);
        assert!(found.contains("2 TiB: entries of its grain tables"), "{found}");
        assert!(why(CreateType::TwoGbMaxExtentSparse, 64 << 40).contains("4096"));
        assert!(why(CreateType::StreamOptimized, 512).contains("export"));
        assert!(why(CreateType::SeSparse, 512).contains("seSparse"));
        let mut child = Recipe::new(CreateType::Vmfs, 512);
        child.parent = Some(ParentLink { hint: String::new(), cid: String::new() });
        assert!(plan(&child, "os", "os.vmdk").expect_err("flat").contains("sparse"));
        child.kind = CreateType::MonolithicSparse;
        for (hint, cid) in [("a\"b", "12345678"), ("a", "1234567"), ("a", "1234567\n")] {
            child.parent = Some(ParentLink { hint: hint.to_owned(), cid: cid.to_owned() });
            assert!(plan(&child, "os", "os.vmdk").expect_err(hint).contains("quotes"));
        }
    }
}
