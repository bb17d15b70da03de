//! What is in the container of an AVIF? HEIF's boxes: which item is the picture, where its AV1 data lies, and what is said of it.
//!
//! ISO/IEC 23008-12 and 14496-12, as far as a still picture needs them; of a sequence the picture that stands for it. Nothing is copied but
//! the data of an item, and that never more than the file has.

use image::metadata::Orientation;

/// Items, places and properties that a file may have: a picture with alpha, EXIF and a thumbnail has some ten.
const ENTRIES_MAX: usize = 4096;

/// What a container says of its picture.
pub(super) struct Container<'a> {
    /// Columns and rows.
    pub(super) size: (u32, u32),
    pub(super) orientation: Orientation,
    /// Overrides what the AV1 data says.
    pub(super) colours: Option<Colours>,
    /// AV1 data of the picture.
    pub(super) picture: Data<'a>,
    /// AV1 data of the alpha by which the colours were multiplied; nothing where they were not.
    pub(super) multiplied_by: Option<Data<'a>>,
}

/// How samples become colours: numbers of ISO/IEC 23091-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colours {
    pub(super) matrix: u16,
    pub(super) full_range: bool,
}

/// The pieces of an item, one after the other.
pub(super) struct Data<'a>(Vec<&'a [u8]>);

impl Data<'_> {
    pub(super) fn whole(&self) -> Vec<u8> {
        self.0.concat()
    }
}

impl<'a> Container<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Container<'a>, String> {
        let meta = first(bytes, *b"meta")?.ok_or("a container without `meta`")?;
        let meta = full(meta)?.2.0;
        let id = {
            let (version, _, mut rest) = full(first(meta, *b"pitm")?.ok_or("no item is named as the picture")?)?;
            rest.number(if version == 0 { 2 } else { 4 })?
        };
        match kind_of_item(meta, id)? {
            Some(kind) if kind == *b"av01" => (),
            Some(kind) if kind == *b"grid" => {
                return Err("a picture of several tiles (`grid`), which is not read".into());
            }
            _ => return Err("the item that is named as the picture is none of AV1".into()),
        }
        let properties = Properties::of(meta)?;
        let mut container = Container {
            size: (0, 0),
            orientation: Orientation::NoTransforms,
            colours: None,
            picture: data_of_item(bytes, meta, id)?,
            multiplied_by: None,
        };
        let (mut turns, mut mirror) = (0, None);
        for part in properties.of_item(id) {
            let mut rest = Rest(part.content);
            match &part.kind {
                b"ispe" => {
                    let mut rest = full(part.content)?.2;
                    container.size = (rest.number(4)?, rest.number(4)?);
                }
                b"irot" => turns = rest.number(1)? & 3,
                b"imir" => mirror = Some(rest.number(1)? & 1),
                b"colr" if part.content.starts_with(b"nclx") => {
                    rest.number(4)?;
                    rest.number(4)?; // primaries and transfer
                    let matrix = rest.number(2)? as u16;
                    container.colours = Some(Colours { matrix, full_range: rest.number(1)? >> 7 == 1 });
                }
                _ => (),
            }
        }
        container.orientation = orientation(turns, mirror);
        let multiplied_by = references(meta, *b"prem")?.into_iter().find(|(from, _)| *from == id);
        if let Some((_, alpha)) = multiplied_by {
            container.multiplied_by = Some(data_of_item(bytes, meta, alpha)?);
        }
        Ok(container)
    }
}

/// Quarter turns against the clock, then top and bottom (0) or left and right (1) exchanged.
fn orientation(turns: u32, mirror: Option<u32>) -> Orientation {
    let exif = match (turns, mirror) {
        (0, None) => 1,
        (0, Some(1)) | (2, Some(0)) => 2,
        (2, None) => 3,
        (0, Some(_)) | (2, Some(_)) => 4,
        (1, Some(0)) | (3, Some(1)) => 5,
        (3, None) => 6,
        (_, Some(_)) => 7,
        (_, None) => 8,
    };
    Orientation::from_exif(exif).unwrap_or(Orientation::NoTransforms)
}

/// One box.
struct Part<'a> {
    kind: [u8; 4],
    content: &'a [u8],
}

/// Boxes, one after the other.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Result<Part<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = part(self.0);
        self.0 = part.as_ref().map_or(&[], |(_, rest)| rest);
        Some(part.map(|(part, _)| part))
    }
}

fn part(bytes: &[u8]) -> Result<(Part<'_>, &[u8]), String> {
    let cut_off = || "a box is cut off: truncated".to_owned();
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut_off)?;
    let (kind, rest) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
    let (head, length) = match u32::from_be_bytes(*length) {
        0 => (8, bytes.len()), // to the end
        1 => {
            let long = rest.first_chunk::<8>().ok_or_else(cut_off)?;
            (16, usize::try_from(u64::from_be_bytes(*long)).map_err(|_| cut_off())?)
        }
        length => (8, length as usize),
    };
    let content = bytes.get(head..length).ok_or_else(cut_off)?;
    Ok((Part { kind: *kind, content }, &bytes[length..]))
}

/// The content of the first box of a kind.
fn first(bytes: &[u8], kind: [u8; 4]) -> Result<Option<&[u8]>, String> {
    for part in Parts(bytes) {
        let part = part?;
        if part.kind == kind {
            return Ok(Some(part.content));
        }
    }
    Ok(None)
}

/// Version, flags and what follows in a box that has them.
fn full(content: &[u8]) -> Result<(u32, u32, Rest<'_>), String> {
    let mut rest = Rest(content);
    let word = rest.number(4)?;
    Ok((word >> 24, word & 0xff_ffff, rest))
}

/// Numbers that are read from the front, the high byte first.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// Of at most 4 bytes.
    fn number(&mut self, bytes: usize) -> Result<u32, String> {
        Ok(self.long(bytes)? as u32)
    }

    /// Of at most 8 bytes.
    fn long(&mut self, bytes: usize) -> Result<u64, String> {
        let (number, rest) = self.0.split_at_checked(bytes).ok_or("a box ends too soon: damaged")?;
        self.0 = rest;
        Ok(number.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

/// A number of entries that a file may have.
fn few(count: u32) -> Result<usize, String> {
    let count = count as usize;
    if count > ENTRIES_MAX { Err(format!("{count} entries, at most {ENTRIES_MAX} are expected")) } else { Ok(count) }
}

fn kind_of_item(meta: &[u8], id: u32) -> Result<Option<[u8; 4]>, String> {
    let (version, _, mut rest) = full(first(meta, *b"iinf")?.ok_or("no list of items")?)?;
    rest.number(if version == 0 { 2 } else { 4 })?; // how many follow
    for part in Parts(rest.0) {
        let part = part?;
        let (version, _, mut rest) = full(part.content)?;
        if part.kind != *b"infe" || !matches!(version, 2 | 3) {
            continue;
        }
        let item = rest.number(if version == 2 { 2 } else { 4 })?;
        let protection = rest.number(2)?;
        if item == id && protection == 0 {
            return Ok(Some(rest.number(4)?.to_be_bytes()));
        }
    }
    Ok(None)
}

/// Where an item lies in the file, or in the box that is for small ones.
fn data_of_item<'a>(bytes: &'a [u8], meta: &'a [u8], id: u32) -> Result<Data<'a>, String> {
    let (version, _, mut rest) = full(first(meta, *b"iloc")?.ok_or("no list of places")?)?;
    let sizes = rest.number(2)?;
    let width = |place: u32| match sizes >> place & 15 {
        width @ (0 | 4 | 8) => Ok(width as usize),
        width => Err(format!("places of {width} bytes")),
    };
    let (of_offset, of_length, of_base) = (width(12)?, width(8)?, width(4)?);
    let of_number = if version == 0 { 0 } else { width(0)? };
    let of_id = if version < 2 { 2 } else { 4 };
    for _ in 0..few(rest.number(of_id)?)? {
        let item = rest.number(of_id)?;
        let way = if version == 0 { 0 } else { rest.number(2)? & 15 };
        rest.number(2)?; // which file; there is one
        let base = rest.long(of_base)?;
        let mut pieces = Vec::new();
        let mut left = bytes.len();
        for _ in 0..few(rest.number(2)?)? {
            rest.long(of_number)?;
            let (offset, length) = (rest.long(of_offset)?, rest.long(of_length)?);
            if item != id {
                continue;
            }
            let within = match way {
                0 => bytes,
                1 => first(meta, *b"idat")?.ok_or("data in a box that is not there")?,
                _ => return Err("data made of other items".into()),
            };
            let begin = base.checked_add(offset).and_then(|begin| usize::try_from(begin).ok());
            let piece = begin.and_then(|begin| within.get(begin..)).ok_or("data beyond the end: truncated")?;
            let length = if length == 0 { piece.len() } else { usize::try_from(length).unwrap_or(usize::MAX) };
            let piece = piece.get(..length).ok_or("data beyond the end: truncated")?;
            // Pieces that lie on each other could be more than there is.
            left = left.checked_sub(length).ok_or("more data than the file has bytes")?;
            pieces.push(piece);
        }
        if item == id {
            return Ok(Data(pieces));
        }
    }
    Err("no place is given for the picture".into())
}

/// Which items refer to which others in a way.
fn references(meta: &[u8], way: [u8; 4]) -> Result<Vec<(u32, u32)>, String> {
    let mut found = Vec::new();
    let Some(content) = first(meta, *b"iref")? else { return Ok(found) };
    let (version, _, rest) = full(content)?;
    let of_id = if version == 0 { 2 } else { 4 };
    for part in Parts(rest.0) {
        let part = part?;
        let mut rest = Rest(part.content);
        if part.kind == way {
            let from = rest.number(of_id)?;
            for _ in 0..few(rest.number(2)?)? {
                found.push((from, rest.number(of_id)?));
            }
        }
    }
    Ok(found)
}

/// What is said of items.
struct Properties<'a> {
    all: Vec<Part<'a>>,
    /// An item and the place of a property of it.
    of: Vec<(u32, usize)>,
}

impl<'a> Properties<'a> {
    fn of(meta: &'a [u8]) -> Result<Properties<'a>, String> {
        let content = first(meta, *b"iprp")?.ok_or("no properties")?;
        let all = Parts(first(content, *b"ipco")?.ok_or("no properties")?).take(ENTRIES_MAX);
        let mut properties = Properties { all: all.collect::<Result<_, _>>()?, of: Vec::new() };
        let (version, flags, mut rest) = full(first(content, *b"ipma")?.ok_or("properties of nothing")?)?;
        for _ in 0..few(rest.number(4)?)? {
            let item = rest.number(if version == 0 { 2 } else { 4 })?;
            for _ in 0..rest.number(1)? {
                // The highest bit says that a reader must know the property.
                let place = if flags & 1 == 1 { rest.number(2)? & 0x7fff } else { rest.number(1)? & 0x7f };
                properties.of.push((item, place as usize));
            }
        }
        Ok(properties)
    }

    fn of_item(&self, id: u32) -> impl Iterator<Item = &Part<'a>> {
        let places = self.of.iter().filter(move |(item, _)| *item == id);
        places.filter_map(|&(_, place)| self.all.get(place.checked_sub(1)?))
    }
}
