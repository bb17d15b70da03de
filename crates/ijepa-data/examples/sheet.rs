//! ad hoc
use ijepa_data::*;
fn main(){
 let d=dataset::Scenes::new(4096,Split::Train,0);
 let (c,r)=(14usize,9usize); let z=2usize; let t=64*z+4;
 let mut img=image::RgbImage::new((c*t) as u32,(r*t) as u32);
 for k in 0..c*r { let p=d.picture(k); for y in 0..64*z{for x in 0..64*z{ let o=((y/z)*64+x/z)*3; img.put_pixel(((k%c)*t+x) as u32,((k/c)*t+y) as u32,image::Rgb([p.rgb[o],p.rgb[o+1],p.rgb[o+2]])); }}}
 img.save("/work/scratch/scenes.png").unwrap();
 for row in 0..3 { println!("{}", (row*c..row*c+c).map(|k|{let l=d.labels(k); format!("{}/{}/{:.2}",dataset::SCENE_CLASSES[l.class as usize],l.count,l.distance)}).collect::<Vec<_>>().join(" ")); }
 let t0=std::time::Instant::now(); for k in 0..2000{ std::hint::black_box(d.picture(k)); } eprintln!("{:?} per scene", t0.elapsed()/2000);
 let t0=std::time::Instant::now(); for k in 0..2000{ std::hint::black_box(d.labels(k)); } eprintln!("{:?} per label", t0.elapsed()/2000);
 let mut cl=[0;6];let mut cn=[0;6];let mut b=[0;4]; for k in 0..4096{let l=d.labels(k);cl[l.class as usize]+=1;cn[l.count as usize]+=1;b[dataset::distance_bin(l.distance) as usize]+=1;} eprintln!("{cl:?} {cn:?} {b:?}");
}
