import time
def test_x(make_runner):
    t=time.time(); r=make_runner(); print('build',time.time()-t)
    t=time.time(); r.train(); print('train',time.time()-t)
    print(r.model.statistics)
