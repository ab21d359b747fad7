;; The information in pages of 4 KiB, for bytecount.py: each byte value that comes n times in a page
;; adds the number that a table has for n.
;;
;; A processor writes about one count in each cycle, however it is told to: so all else must be done
;; beside that. Eight bytes are loaded at once, and each is counted in a table of its own, since of
;; equal bytes in a row each would have to wait for the last. A table has 256 counts of 16 bits.
;;
;; Places in the memory: 0x0 counts, 0x1000 the numbers for 0 to 4096, 0x6000 the pages' sums,
;; 0x8000 the pages (256 at most).
(module
  (memory (export "memory") 17)

  ;; Write the sums for the first pages.
  (func (export "measure") (param $pages i32)
    (local $at i32) (local $next i32) (local $count i32) (local $sum i32) (local $result i32)
    (local $word i64) (local $eight v128)
    (local.set $at (i32.const 0x8000))
    (local.set $result (i32.const 0x6000))
    (loop $each
      (memory.fill (i32.const 0) (i32.const 0) (i32.const 0x1000))
      (local.set $next (i32.add (local.get $at) (i32.const 4096)))
      (loop $words
        (local.set $word (i64.load (local.get $at)))
        ;; The place of a byte's count: twice the byte.
        (local.set $count
          (i32.wrap_i64 (i64.and (i64.shl (local.get $word) (i64.const 1)) (i64.const 0x1fe))))
        (i32.store16 (local.get $count)
          (i32.add (i32.load16_u (local.get $count)) (i32.const 1)))
        (local.set $count
          (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 7)) (i64.const 0x1fe))))
        (i32.store16 offset=0x200 (local.get $count)
          (i32.add (i32.load16_u offset=0x200 (local.get $count)) (i32.const 1)))
        (local.set $count
          (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 15)) (i64.const 0x1fe))))
        (i32.store16 offset=0x400 (local.get $count)
          (i32.add (i32.load16_u offset=0x400 (local.get $count)) (i32.const 1)))
        (local.set $count
          (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 23)) (i64.const 0x1fe))))
        (i32.store16 offset=0x600 (local.get $count)
          (i32.add (i32.load16_u offset=0x600 (local.get $count)) (i32.const 1)))
        (local.set $count
          (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 31)) (i64.const 0x1fe))))
        (i32.store16 offset=0x800 (local.get $count)
          (i32.add (i32.load16_u offset=0x800 (local.get $count)) (i32.const 1)))
        (local.set $count
          (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 39)) (i64.const 0x1fe))))
        (i32.store16 offset=0xa00 (local.get $count)
          (i32.add (i32.load16_u offset=0xa00 (local.get $count)) (i32.const 1)))
        (local.set $count
          (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 47)) (i64.const 0x1fe))))
        (i32.store16 offset=0xc00 (local.get $count)
          (i32.add (i32.load16_u offset=0xc00 (local.get $count)) (i32.const 1)))
        (local.set $count
          (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 55)) (i64.const 0x1fe))))
        (i32.store16 offset=0xe00 (local.get $count)
          (i32.add (i32.load16_u offset=0xe00 (local.get $count)) (i32.const 1)))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br_if $words (i32.lt_u (local.get $at) (local.get $next))))

      (local.set $count (i32.const 0))
      (local.set $sum (i32.const 0))
      (loop $values
        ;; The counts of eight values.
        (local.set $eight
          (i16x8.add
            (i16x8.add
              (i16x8.add
                (v128.load (local.get $count))
                (v128.load offset=0x200 (local.get $count)))
              (i16x8.add
                (v128.load offset=0x400 (local.get $count))
                (v128.load offset=0x600 (local.get $count))))
            (i16x8.add
              (i16x8.add
                (v128.load offset=0x800 (local.get $count))
                (v128.load offset=0xa00 (local.get $count)))
              (i16x8.add
                (v128.load offset=0xc00 (local.get $count))
                (v128.load offset=0xe00 (local.get $count))))))
        (local.set $word (i64x2.extract_lane 0 (local.get $eight)))
        (local.set $sum
          (i32.add
            (local.get $sum)
            (i32.add
              (i32.add
                (i32.load offset=0x1000
                  (i32.wrap_i64 (i64.and (i64.shl (local.get $word) (i64.const 2)) (i64.const 0x3fffc))))
                (i32.load offset=0x1000
                  (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 14)) (i64.const 0x3fffc)))))
              (i32.add
                (i32.load offset=0x1000
                  (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 30)) (i64.const 0x3fffc))))
                (i32.load offset=0x1000
                  (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 46)) (i64.const 0x3fffc))))))))
        (local.set $word (i64x2.extract_lane 1 (local.get $eight)))
        (local.set $sum
          (i32.add
            (local.get $sum)
            (i32.add
              (i32.add
                (i32.load offset=0x1000
                  (i32.wrap_i64 (i64.and (i64.shl (local.get $word) (i64.const 2)) (i64.const 0x3fffc))))
                (i32.load offset=0x1000
                  (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 14)) (i64.const 0x3fffc)))))
              (i32.add
                (i32.load offset=0x1000
                  (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 30)) (i64.const 0x3fffc))))
                (i32.load offset=0x1000
                  (i32.wrap_i64 (i64.and (i64.shr_u (local.get $word) (i64.const 46)) (i64.const 0x3fffc))))))))
        (local.set $count (i32.add (local.get $count) (i32.const 16)))
        (br_if $values (i32.lt_u (local.get $count) (i32.const 0x200))))

      (i32.store (local.get $result) (local.get $sum))
      (local.set $result (i32.add (local.get $result) (i32.const 4)))
      (local.set $pages (i32.sub (local.get $pages) (i32.const 1)))
      (br_if $each (local.get $pages)))))
