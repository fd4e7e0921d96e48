"""The function that XLA calls for a kernel: it shares the kernel's parts among XLA's threads.

It is called by XLA's foreign function interface, a C structure, see `c_api.h` of jaxlib.
"""

from __future__ import annotations

# The job lives until its last user left it: a thread may come when all is done. The thread that
# XLA called takes parts as the others do, so it never waits for one that has not started.
HANDLER = """
declare ptr @malloc(i64)
declare void @free(ptr)
declare i32 @sched_yield()
%job = type {i64, i64, i64, [ARRAYS x ptr]}  ; next part, parts done, users, arrays

define internal void @leave(ptr %job) {
  %users = getelementptr %job, ptr %job, i64 0, i32 2
  %before = atomicrmw sub ptr %users, i64 1 acq_rel
  %last = icmp eq i64 %before, 1
  br i1 %last, label %clear, label %end
clear:
  call void @free(ptr %job)
  br label %end
end:
  ret void
}

define internal void @take(ptr %job, ptr %scratch) {
  %done = getelementptr %job, ptr %job, i64 0, i32 1
LOADS  br label %take
take:
  %part = atomicrmw add ptr %job, i64 1 monotonic
  %some = icmp slt i64 %part, PARTS
  br i1 %some, label %run, label %end
run:
  call void @item(POINTERS, i64 %part, ptr %scratch)
  %unused = atomicrmw add ptr %done, i64 1 release
  br label %take
end:
  ret void
}

define internal void @work(ptr %job) {
  %scratch = call ptr @malloc(i64 SCRATCH)
  %none = icmp eq ptr %scratch, null  ; then the other threads take all parts
  br i1 %none, label %end, label %some
some:
  call void @take(ptr %job, ptr %scratch)
  call void @free(ptr %scratch)
  br label %end
end:
  call void @leave(ptr %job)
  ret void
}

@message = private constant MESSAGE

define ptr @handler(ptr %frame) {
  %count = alloca i64
  %request = alloca {i64, ptr, ptr, ptr, ptr}
  %failure = alloca {i64, ptr, ptr, i32}
  store i64 1, ptr %count
  %extension.at = getelementptr i8, ptr %frame, i64 8
  %extension = load ptr, ptr %extension.at
  %plain = icmp eq ptr %extension, null
  br i1 %plain, label %staged, label %extended
extended:
  %kind.at = getelementptr i8, ptr %extension, i64 8
  %kind = load i32, ptr %kind.at
  %asked = icmp eq i32 %kind, 1
  br i1 %asked, label %describe, label %staged
describe:  ; the version of the interface, and no traits
  %metadata.at = getelementptr i8, ptr %extension, i64 24
  %metadata = load ptr, ptr %metadata.at
  %version = getelementptr i8, ptr %metadata, i64 8
  store {i64, ptr, i32, i32, i32} {i64 24, ptr null, i32 0, i32 MINOR, i32 0}, ptr %version
  ret ptr null
staged:
  %stage.at = getelementptr i8, ptr %frame, i64 32
  %stage = load i32, ptr %stage.at
  %execute = icmp eq i32 %stage, 3
  br i1 %execute, label %start, label %end
start:
  %api.at = getelementptr i8, ptr %frame, i64 16
  %api = load ptr, ptr %api.at
  %context.at = getelementptr i8, ptr %frame, i64 24
  %context = load ptr, ptr %context.at
  %args.at = getelementptr i8, ptr %frame, i64 72
  %args = load ptr, ptr %args.at
  %results.at = getelementptr i8, ptr %frame, i64 112
  %results = load ptr, ptr %results.at
  %size = ptrtoint ptr getelementptr (%job, ptr null, i64 1) to i64
  %job = call ptr @malloc(i64 %size)
  %scratch = call ptr @malloc(i64 SCRATCH)
  %no.job = icmp eq ptr %job, null
  %no.scratch = icmp eq ptr %scratch, null
  %nothing = or i1 %no.job, %no.scratch
  br i1 %nothing, label %failed, label %begin
failed:
  call void @free(ptr %job)
  call void @free(ptr %scratch)
  store {i64, ptr, ptr, i32} {i64 28, ptr null, ptr @message, i32 8}, ptr %failure
  %create.at = getelementptr i8, ptr %api, i64 ERRORS
  %create = load ptr, ptr %create.at
  %problem = call ptr %create(ptr %failure)
  ret ptr %problem
begin:
  %done = getelementptr %job, ptr %job, i64 0, i32 1
  %users = getelementptr %job, ptr %job, i64 0, i32 2
STORES  %request.2 = getelementptr i64, ptr %request, i64 2
  %request.3 = getelementptr i64, ptr %request, i64 3
  %request.4 = getelementptr i64, ptr %request, i64 4
  store {i64, ptr} {i64 32, ptr null}, ptr %request
  store ptr %context, ptr %request.2
  store ptr %count, ptr %request.3
  %threads.at = getelementptr i8, ptr %api, i64 COUNTS
  %threads.of = load ptr, ptr %threads.at
  %no.threads = call ptr %threads.of(ptr %request)
  %threads = load i64, ptr %count
  %few = icmp slt i64 %threads, PARTS
  %workers = select i1 %few, i64 %threads, i64 PARTS
  store {i64, i64} zeroinitializer, ptr %job
  %all = add i64 %workers, 1  ; this thread works and waits
  store i64 %all, ptr %users
  store i64 40, ptr %request
  store ptr @work, ptr %request.3
  store ptr %job, ptr %request.4
  %schedule.at = getelementptr i8, ptr %api, i64 SCHEDULES
  %schedule = load ptr, ptr %schedule.at
  br label %spread
spread:
  %k = phi i64 [1, %begin], [%k.next, %scheduled], [%k.next, %refused]
  %more = icmp slt i64 %k, %workers
  br i1 %more, label %ask, label %own
ask:
  %k.next = add i64 %k, 1
  %error = call ptr %schedule(ptr %request)
  %taken = icmp eq ptr %error, null
  br i1 %taken, label %scheduled, label %refused
scheduled:
  br label %spread
refused:
  call void @leave(ptr %job)
  br label %spread
own:
  call void @take(ptr %job, ptr %scratch)
  call void @free(ptr %scratch)
  call void @leave(ptr %job)
  br label %wait
wait:
  %so.far = load atomic i64, ptr %done acquire, align 8
  %missing = icmp slt i64 %so.far, PARTS
  br i1 %missing, label %rest, label %over
rest:
  %yielded = call i32 @sched_yield()
  br label %wait
over:
  call void @leave(ptr %job)
  br label %end
end:
  ret ptr null
}
"""

MESSAGE = "segjax: no memory left for a convolution"


def handler_text(interface, arrays, parts, scratch):
  """The handler of a kernel `item` in LLVM's language, beside which it is compiled.

  Args:
    interface: `xla_call.Interface`.
    arrays: number of array arguments; one result follows them.
    parts: number of parts of the work.
    scratch: float32 values of scratch memory per thread.
  """
  loads = stores = ""
  for k in range(arrays + 1):
    place = f"%job, ptr %job, i64 0, i32 3, i64 {k}"
    loads += f"  %at{k} = getelementptr {place}\n  %p{k} = load ptr, ptr %at{k}\n"
    buffers, index = ("%args", k) if k < arrays else ("%results", 0)
    stores += (
      f"  %buffer{k}.at = getelementptr ptr, ptr {buffers}, i64 {index}\n"
      f"  %buffer{k} = load ptr, ptr %buffer{k}.at\n"
      f"  %data{k}.at = getelementptr i8, ptr %buffer{k}, i64 24\n"
      f"  %data{k} = load ptr, ptr %data{k}.at\n"
      f"  %slot{k} = getelementptr {place}\n  store ptr %data{k}, ptr %slot{k}\n"
    )
  pointers = ", ".join(f"ptr %p{k}" for k in range(arrays + 1))
  text = HANDLER.replace("LOADS", loads).replace("STORES", stores).replace("POINTERS", pointers)
  text = text.replace("ARRAYS", str(arrays + 1)).replace("PARTS", str(parts))
  text = text.replace("MINOR", str(interface.minor)).replace("COUNTS", str(interface.count))
  text = text.replace("SCHEDULES", str(interface.schedule)).replace("ERRORS", str(interface.error))
  text = text.replace("MESSAGE", f'[{len(MESSAGE) + 1} x i8] c"{MESSAGE}\\00"')
  return text.replace("SCRATCH", str(4 * scratch + 64))
